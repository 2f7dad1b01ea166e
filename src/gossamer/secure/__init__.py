"""Secure sums: a server learns the sum of the nodes' integers modulo 2^32, and not what one of them sent.

Bonawitz et al. 2017, 'Practical secure aggregation for privacy-preserving machine learning', Figure 4, on the complete
graph, without what is marked there as needed against an active server only (signatures, consistency check).

    step       node -> server                                       server -> nodes
    advertise  Advertise  two public keys                           Roster     all public keys
    share      Shares     shares of seed and key, sealed to each    Delivery   the shares meant for a node
    mask       Masked     its numbers + masks                       Survivors  whose masked numbers arrived
    reveal     Reveal     shares of survivors' seeds,
                          of the keys of those who dropped

Node u sends x_u + PRG(seed_u) + sum over v of sign(u, v) PRG(s_uv) mod 2^32. The seed s_uv is agreed between u and v by
their keys, and is added by one and subtracted by the other, so these masks cancel; the seed_u of those who stayed, and
the keys of those who went between sharing and masking, are put together again from a threshold of shares. Nobody
reveals both of one node.

    protocol    the two sides as state machines        messages   what they say, and the tensors that it is
    agreement   keys and seeds of two nodes, sealing   sizes      bytes that a sum sends, known beforehand
    shamir      t of n shares of 32 bytes              masks      a seed as numbers modulo 2^32
    ring        numbers <-> integers modulo 2^32, rounding and noise in integers

    coordinator = Coordinator(sum_id, cohort, threshold, length)
    accept(participant.advertise()) ...                     roster = coordinator.roster()
    accept(participant.share(roster)) ...                   deliveries = coordinator.deliveries()
    accept(participant.mask(values_L, deliveries[u])) ...   survivors = coordinator.survivors()
    accept(participant.reveal(survivors)) ...               total_L = coordinator.total()

Names: L numbers in a vector, u and v nodes, m nodes in a cohort, t the threshold. What is and is not protected:
docs/secure-sums.md.
"""

from __future__ import annotations
