"""Layers of volumes that are split over ranks. Knows torch.distributed; the product of a shard is handed in.

    halo.py      which inputs the outputs of a rank read, who has them, and what a rank computes from what: integers only
    exchange.py  the tensors on their way, as autograd sees them: from rank to rank, and sums over ranks
    layer.py     the layer of DTensors: which placements it takes, and the product of this rank's shard
"""
