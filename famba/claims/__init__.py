"""What rows say of published claims, and `audit/`: what the paper's own numbers say of each other."""
