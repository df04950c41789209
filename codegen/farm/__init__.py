"""Devices of other hosts, found through TVM's RPC tracker: what tunes asks for them by a key, what has them serves."""
