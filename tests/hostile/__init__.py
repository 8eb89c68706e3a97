"""Hostile files: seeded generators of them, and the proof that each is read rightly or refused.

``make fuzz`` tries thousands and prints what became of them; the suite tries some of each family.
"""
