"""What a training leaves behind, and what is made of rows alone. No torch."""
