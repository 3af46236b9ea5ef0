"""Layers of volumes that are split over ranks. Knows torch.distributed; the product of a shard is handed in.

    halo.py      which inputs the outputs of a rank read, who has them, what a rank computes from what: integers only
    exchange.py  the tensors on their way, as autograd sees them: from rank to rank, and sums over ranks
    placing.py   which placements the layer takes, and in which groups its ranks talk
    layer.py     the layer of DTensors: the product of this rank's shard
"""
