"""`famba reproduce`: a row trained again, and compared field by field."""
