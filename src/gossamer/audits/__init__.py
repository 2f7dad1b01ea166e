"""Audits: what an adversary really learns from a run, measured.

    membership   was this example, or this node, in the training data? Canaries, coins and guesses
    inversion    which images did a node hold? Reconstructed from the message that it sends

An audit is an attack that was tried, so what it finds is a lower bound on what leaks. A guarantee (`gossamer.privacy`)
is an upper bound, for every attack; an audit can contradict a guarantee, never prove one.
"""
