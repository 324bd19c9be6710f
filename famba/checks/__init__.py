"""What rows are checked for: written rules, a frozen baseline, equivalence with another protocol, reproduction field by
field.
"""
