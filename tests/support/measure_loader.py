"""What a DataLoader with workers takes of /dev/shm: the figures of host_memory_test.cpp.

usage: measure_loader.py WORKERS PREFETCH_FACTOR BATCH SEQ, on a machine where nothing else uses /dev/shm
"""
import os
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

WORKERS, PREFETCH, BATCH, SEQ = map(int, sys.argv[1:5])


class Tokens(Dataset):
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return {name: torch.zeros(SEQ, dtype=torch.long) for name in ("input_ids", "attention_mask", "labels")}


def used():
    shm = os.statvfs("/dev/shm")
    return (shm.f_blocks - shm.f_bfree) * shm.f_frsize


before, most = used(), 0
batches = iter(DataLoader(Tokens(), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=PREFETCH))
for _ in range(6):
    batch = next(batches)  # the loop holds one
    time.sleep(2)          # and is slower than the workers
    most = max(most, used() - before)
print(f"{most} bytes; a batch has {sum(tensor.nbytes for tensor in batch.values())}")
