"""What rows must fulfil: the written `rules`, a frozen `baseline` and its `gate`, `equivalence` with another protocol,
`reproduction` of a row field by field.
"""
