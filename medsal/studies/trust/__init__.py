"""Studies of trust: do maps beat chance, depend on the weights, repeat and reproduce?"""
