"""`famba crate`: a finished experiment as an RO-Crate."""
