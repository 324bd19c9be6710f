"""What the paper's own tables say, without any training: `famba audit`. No torch."""
