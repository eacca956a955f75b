#!/usr/bin/env python3
"""Small trainings of six kinds, written as anyone would: capture_models.py NAME (--list tells which)."""
import sys


def train(model, batches, loss_of, optimizer):
    for step, batch in enumerate(batches):
        batch = [part.cuda() for part in batch]
        optimizer.zero_grad()
        loss = loss_of(model, *batch)
        loss.backward()
        optimizer.step()
        print(step, loss.item())


def mlp():
    model = nn.Sequential(nn.Linear(1024, 2048), nn.GELU(), nn.Linear(2048, 1000)).cuda()
    batches = [(torch.randn(256, 1024), torch.randint(1000, (256,))) for _ in range(3)]
    train(model, batches, lambda m, x, y: F.cross_entropy(m(x), y), torch.optim.AdamW(model.parameters()))


def transformer():
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Embedding(5000, 256), nn.TransformerEncoder(layer, 2), nn.Linear(256, 5000)).cuda()
    batches = [(torch.randint(5000, (8, 128)),) for _ in range(3)]
    train(model, batches, lambda m, i: F.cross_entropy(m(i).flatten(0, 1), i.flatten()), torch.optim.Adam(model.parameters()))


def checkpointed():
    from torch.utils.checkpoint import checkpoint
    blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)) for _ in range(4)).cuda()

    def loss_of(_, x):
        for block in blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return x.square().mean()
    train(blocks, [(torch.randn(512, 512),) for _ in range(3)], loss_of, torch.optim.SGD(blocks.parameters(), 0.1, momentum=0.9))


def autocast():
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512)).cuda()

    def loss_of(m, x):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return m(x).float().square().mean()
    train(model, [(torch.randn(n, 512),) for n in (128, 256, 64, 512)], loss_of, torch.optim.AdamW(model.parameters(), fused=True))


def streams():
    model = nn.Linear(1024, 1024).cuda()
    side = torch.cuda.Stream()

    def loss_of(m, x):
        y = m(x)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            z = y.sigmoid() * y
            y.record_stream(side)
        torch.cuda.current_stream().wait_stream(side)
        return z.mean()
    train(model, [(torch.randn(512, 1024),) for _ in range(3)], loss_of, torch.optim.AdamW(model.parameters()))


def embeddings():
    model = nn.EmbeddingBag(100_000, 64, mode="sum").cuda()
    head = nn.Linear(64, 2).cuda()
    parameters = [*model.parameters(), *head.parameters()]
    batches = [(torch.randint(100_000, (512, 20)), torch.randint(2, (512,))) for _ in range(3)]
    train(model, batches, lambda m, i, y: F.cross_entropy(head(m(i)), y), torch.optim.Adagrad(parameters))


KINDS = (mlp, transformer, checkpointed, autocast, streams, embeddings)

if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(*(kind.__name__ for kind in KINDS))
    else:
        import torch
        import torch.nn as nn
        import torch.nn.functional as F
        torch.manual_seed(0)
        next(kind for kind in KINDS if kind.__name__ == sys.argv[1])()
