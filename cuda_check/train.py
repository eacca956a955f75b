#!/usr/bin/env python3
"""Trains the run that `peakcast predict` describes, in PyTorch on this machine's GPU, and prints what was
predicted beside what was measured: allocated, reserved and device memory, the out-of-memory point, step times.

Takes predict's run flags unchanged. Further flags are about the measurement: where the prediction comes from
(--peakcast or --prediction), and which allocator runs (--plugged loads a peakcast policy into PyTorch).

Exit status: 0 it ran, 1 it ran out of memory, 2 bad usage, 77 no GPU.
"""
import argparse
import contextlib
import ctypes
import fcntl
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "workloads" / "configs"
NO_GPU = 77

# The model classes of each task, as a config's `architectures` ends.
TASK_CLASSES = {
    "mlm": "ForMaskedLM",
    "pretraining": "ForPreTraining",
    "classification": "ForSequenceClassification",
    "causal-lm": ("ForCausalLM", "LMHeadModel"),
    "image-classification": "ForImageClassification",
    "seq2seq": "ForConditionalGeneration",
}
# A transformer's layers, which FSDP wraps one by one.
LAYER_CLASSES = {"BertLayer", "LlamaDecoderLayer", "GPT2Block", "Qwen2DecoderLayer", "MistralDecoderLayer",
                 "MixtralDecoderLayer", "ViTLayer", "T5Block"}
UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
         "TIB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def size(text):
    """24GiB, 24G, 80GB or plain bytes."""
    digits = text.rstrip("BKMGTibkmgt")
    return int(float(digits) * UNITS[text[len(digits):].upper()])


def limit(text):
    """A size, or the part of the card as 0.5 or 50%: a float, which PyTorch takes as it is."""
    if text.endswith("%") or ("." in text and text[-1].isdigit()):
        part = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
        if not 0 <= part <= 1:
            raise argparse.ArgumentTypeError(f"'{text}': a part of the card is in 0.0..1.0 or 0%..100%")
        return part
    return size(text)


def limit_bytes(args, total):
    return int(args.limit * total) if isinstance(args.limit, float) else args.limit


def shapes(text):
    return [tuple(int(n) for n in item.split("x")) for item in text.split(",")]


def on_off(text):
    return {"on": True, "off": False}[text]


# What the captured engine's own program trains, on a real card too.
CAPTURED_ONLY = ("images", "offload", "compile", "lora", "lora-targets", "lora-dropout", "quantize", "double-quant",
                 "freeze", "fused-loss", "program", "zero-init", "tensor-parallel", "sequence-parallel",
                 "pipeline-parallel", "virtual-pipeline", "microbatches", "context-parallel", "expert-parallel",
                 "distributed-optimizer", "recompute")
# The type that a config names is the default of --precision.
NAMED_TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                allow_abbrev=False)
    run = p.add_argument_group("the run, as for `peakcast predict`")
    run.add_argument("--model", required=True)
    run.add_argument("--task", default="auto", choices=["auto", *TASK_CLASSES])
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    run.add_argument("--batch", type=int, default=1)
    run.add_argument("--seq", type=int, default=512)
    run.add_argument("--batches", type=shapes)
    run.add_argument("--target-seq", type=int)
    run.add_argument("--iterations", type=int, default=3)
    run.add_argument("--precision", choices=["fp32", "bf16", "fp16", "bf16-amp", "fp16-amp"])
    run.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    run.add_argument("--optimizer", default="adamw",
                     choices=["adamw", "adamw-fused", "adamw-single", "adam", "sgd", "adafactor"])
    run.add_argument("--zero-grad", default="before", choices=["before", "after"])
    run.add_argument("--accumulate", type=int, default=1)
    run.add_argument("--clip-grad", action="store_true")
    run.add_argument("--dispatch-mode", action="store_true", help="the iterations run under a TorchDispatchMode")
    run.add_argument("--checkpoint", default="none", choices=["none", "full", "full-reentrant"])
    run.add_argument("--parallel", default="none", choices=["none", "ddp", "fsdp1", "fsdp2"],
                     help="DeepSpeed's zero1 to zero3 are predicted, not trained here")
    run.add_argument("--world", type=int, default=1)
    run.add_argument("--shard", default="full", choices=["full", "grad-op", "hybrid", "none"])
    run.add_argument("--reshard-after-forward", type=on_off, default=True)
    run.add_argument("--shard-precision", default="same", choices=["same", "bf16", "fp16", "fp32"])
    run.add_argument("--reduce-precision", default="same", choices=["same", "bf16", "fp16", "fp32"])
    run.add_argument("--backward-prefetch", default="pre", choices=["pre", "post", "none"])
    run.add_argument("--forward-prefetch", type=on_off, default=False)
    run.add_argument("--limit-all-gathers", type=on_off, default=True)
    run.add_argument("--bucket-view", type=on_off, default=False)
    run.add_argument("--bucket-mb", type=int, default=25)
    run.add_argument("--host-speed", type=int, default=100, help="of this machine, for the prediction")
    run.add_argument("--limit", type=limit)
    run.add_argument("--policy", default="pytorch")
    run.add_argument("--alloc-conf", default="")
    run.add_argument("--capacity", type=size, help="as much of the card as a smaller one has; the rest is taken away")
    run.add_argument("--rank", type=int, default=0, help="for the prediction, as --gpu and --framework")
    run.add_argument("--gpu")
    run.add_argument("--framework")
    for flag in CAPTURED_ONLY:
        run.add_argument(f"--{flag}", nargs="?", const="on",
                         help="refused here: workloads/capture/described_run.py trains it")
    own = p.add_argument_group("the measurement")
    own.add_argument("--peakcast", metavar="PROGRAM", help="ask this peakcast for the prediction")
    own.add_argument("--prediction", metavar="FILE", help="or read what `predict --format json` wrote")
    own.add_argument("--measurement", metavar="FILE", help="do not train: read what --save wrote")
    own.add_argument("--save", metavar="FILE", help="write the measurement as JSON")
    own.add_argument("--trace", metavar="FILE", help="record the allocator's trace as CSV (slows the run)")
    own.add_argument("--plugged", metavar="LIBRARY",
                     help="libpeakcast_allocator.so: --policy runs inside PyTorch in place of its own allocator")
    own.add_argument("--deterministic", action="store_true",
                     help="kernels whose results repeat, so that losses can be compared bit by bit")
    own.add_argument("--lock", metavar="FILE", help="wait for this file's lock before the GPU is touched")
    own.add_argument("--dry-run", action="store_true", help="one iteration on the CPU; nothing is measured")
    own.add_argument("--format", default="text", choices=["text", "json"])
    return p


def fail(message):
    """Bad usage or bad input."""
    print(f"train.py: error: {message}", file=sys.stderr)
    sys.exit(2)


OWN_FLAGS = {"--peakcast": 1, "--prediction": 1, "--measurement": 1, "--save": 1, "--trace": 1, "--plugged": 1,
             "--lock": 1, "--deterministic": 0, "--dry-run": 0, "--format": 1}


def run_words(words):
    """The words that predict understands: all but ours."""
    kept, skip = [], 0
    for word in words:
        name = word.split("=")[0]
        if skip:
            skip -= 1
        elif name in OWN_FLAGS:
            skip = OWN_FLAGS[name] if "=" not in word else 0
        else:
            kept.append(word)
    return kept


def build_model(args):
    """The model on the CPU, its weights unset: they are filled on the device."""
    import torch
    import transformers
    path = pathlib.Path(args.model)
    if not path.is_file():
        path = CONFIGS / f"{args.model}.json"
    fields = json.loads(path.read_text())
    for item in args.overrides:
        key, value = item.split("=", 1)
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
        fields[key] = value
    architecture = fields.pop("architectures", [""])[0]
    task = args.task
    if task == "auto":
        task = next(t for t, ends in TASK_CLASSES.items() if architecture.endswith(ends))
    elif not architecture.endswith(TASK_CLASSES[task]):
        stem = architecture[:architecture.index("For")] if "For" in architecture else architecture[:-len("LMHeadModel")]
        ends = TASK_CLASSES[task]
        architecture = stem + (ends if isinstance(ends, str) else ends[0])
    if fields["model_type"] == "t5":
        fields.setdefault("decoder_start_token_id", 0)
        fields.setdefault("pad_token_id", 0)
    fields.pop("use_cache", None)
    named = fields.pop("torch_dtype", None) or fields.pop("dtype", None)
    args.precision = args.precision or NAMED_TYPES.get(named, "fp32")
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._attn_implementation = args.attention
    config.use_cache = False
    with unset_weights(torch):
        model = getattr(transformers, architecture)(config)
    if args.precision in ("bf16", "fp16"):
        model = model.to(torch.bfloat16 if args.precision == "bf16" else torch.float16)
    return model, config, task


@contextlib.contextmanager
def unset_weights(torch):
    """Random initialisation on the CPU takes minutes for large models and is overwritten anyway."""
    names = ("normal_", "uniform_")
    saved = {name: getattr(torch.Tensor, name) for name in names}
    truncated = torch.nn.init.trunc_normal_
    try:
        for name in names:
            setattr(torch.Tensor, name, lambda self, *_, **__: self)
        torch.nn.init.trunc_normal_ = lambda tensor, *_, **__: tensor
        yield
    finally:
        for name, function in saved.items():
            setattr(torch.Tensor, name, function)
        torch.nn.init.trunc_normal_ = truncated


def make_batch(task, config, batch, seq, target_seq, generator):
    import torch
    if task == "image-classification":
        pixels = torch.randn(batch, config.num_channels, config.image_size, config.image_size, generator=generator)
        return dict(pixel_values=pixels, labels=torch.randint(0, config.num_labels, (batch,), generator=generator))
    ids = torch.randint(5, config.vocab_size, (batch, seq), generator=generator)
    if task == "causal-lm":
        return dict(input_ids=ids, labels=ids.clone())
    data = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
    if task == "seq2seq":
        data["labels"] = torch.randint(5, config.vocab_size, (batch, target_seq or seq), generator=generator)
        return data
    data["token_type_ids"] = torch.zeros_like(ids)
    if task == "classification":
        data["labels"] = torch.randint(0, config.num_labels, (batch,), generator=generator)
        return data
    labels = ids.clone()
    labels[torch.rand(batch, seq, generator=generator) > 0.15] = -100
    data["labels"] = labels
    if task == "pretraining":
        data["next_sentence_label"] = torch.randint(0, 2, (batch,), generator=generator)
    return data


def dtype_of(name):
    import torch
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def init_process_group(args):
    import torch.distributed as dist
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend="nccl")
    elif args.parallel == "ddp":
        store = dist.FileStore(tempfile.mktemp(prefix="peakcast_store_"), 1)
        dist.init_process_group(backend="nccl", rank=0, world_size=1, store=store)
    else:
        # One rank of many: the memory is real, the collectives do nothing.
        from torch.testing._internal.distributed.fake_pg import FakeStore
        dist.init_process_group(backend="fake", rank=0, world_size=args.world, store=FakeStore())


def distribute(args, model, device):
    import torch
    import torch.distributed as dist
    init_process_group(args)
    layers = {type(m) for m in model.modules() if type(m).__name__ in LAYER_CLASSES}
    reduce = args.reduce_precision if args.reduce_precision != "same" else args.shard_precision
    if args.parallel == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model.to(device), device_ids=[device.index],
                                                         gradient_as_bucket_view=args.bucket_view,
                                                         bucket_cap_mb=args.bucket_mb)
    if args.parallel == "fsdp1":
        from functools import partial
        from torch.distributed.fsdp import BackwardPrefetch, FullyShardedDataParallel, MixedPrecision, ShardingStrategy
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
        precision = None
        if args.shard_precision != "same":
            kind = dtype_of(args.shard_precision)
            precision = MixedPrecision(param_dtype=kind, reduce_dtype=dtype_of(reduce), buffer_dtype=kind)
        strategy = {"full": ShardingStrategy.FULL_SHARD, "grad-op": ShardingStrategy.SHARD_GRAD_OP,
                    "hybrid": ShardingStrategy.HYBRID_SHARD, "none": ShardingStrategy.NO_SHARD}[args.shard]
        prefetch = {"pre": BackwardPrefetch.BACKWARD_PRE, "post": BackwardPrefetch.BACKWARD_POST, "none": None}
        return FullyShardedDataParallel(
            model, auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls=layers),
            sharding_strategy=strategy, mixed_precision=precision, device_id=device.index, use_orig_params=True,
            limit_all_gathers=args.limit_all_gathers, forward_prefetch=args.forward_prefetch,
            backward_prefetch=prefetch[args.backward_prefetch])
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    options = dict(mesh=init_device_mesh("cuda", (dist.get_world_size(),)),
                   reshard_after_forward=args.reshard_after_forward)
    if args.shard_precision != "same":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=dtype_of(args.shard_precision),
                                                    reduce_dtype=dtype_of(reduce))
    for module in list(model.modules()):
        if type(module) in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    return model.to(device)


def make_optimizer(args, parameters):
    import torch
    return {
        "adamw": lambda: torch.optim.AdamW(parameters, lr=1e-5),
        "adamw-fused": lambda: torch.optim.AdamW(parameters, lr=1e-5, fused=True),
        "adamw-single": lambda: torch.optim.AdamW(parameters, lr=1e-5, foreach=False),
        "adam": lambda: torch.optim.Adam(parameters, lr=1e-5),
        "sgd": lambda: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
        "adafactor": lambda: torch.optim.Adafactor(parameters),
    }[args.optimizer]()


class NativeAllocator:
    """PyTorch's own allocator."""

    def __init__(self, args, device):
        import torch
        self.torch, self.device = torch, device
        if args.limit is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(limit_bytes(args, total) / total, device)

    def figures(self):
        s = self.torch.cuda.memory_stats(self.device)
        return dict(peak_requested_bytes=s.get("requested_bytes.all.peak", 0),
                    peak_allocated_bytes=s["allocated_bytes.all.peak"], peak_active_bytes=s["active_bytes.all.peak"],
                    peak_reserved_bytes=s["reserved_bytes.all.peak"], reserved_bytes=s["reserved_bytes.all.current"],
                    alloc_retries=s["num_alloc_retries"], segments_allocated=s.get("num_device_alloc", 0))


class PluggedAllocator:
    """A peakcast policy inside PyTorch. Must be made before the first allocation on the device."""

    def __init__(self, args, device):
        import torch
        self.device = device
        self.library = ctypes.CDLL(args.plugged)
        self.library.peakcast_statistics.restype = ctypes.c_size_t
        message = ctypes.create_string_buffer(1000)
        allowed = -1
        if args.limit is not None:
            import torch
            allowed = limit_bytes(args, torch.cuda.mem_get_info(device)[1])
        if self.library.peakcast_configure(args.policy.encode(), args.alloc_conf.encode(),
                                           ctypes.c_int64(allowed), message,
                                           ctypes.c_size_t(len(message))) != 0:
            fail(message.value.decode())
        wrapper = torch.cuda.memory.CUDAPluggableAllocator(args.plugged, "peakcast_malloc", "peakcast_free")
        hooks = wrapper.allocator()
        for setter, name in (("set_record_stream_fn", "peakcast_record_stream"), ("set_reset_fn", "peakcast_reset"),
                             ("set_memory_fraction_fn", "peakcast_memory_fraction"), ("set_init_fn", "peakcast_init")):
            getattr(hooks, setter)(ctypes.cast(getattr(self.library, name), ctypes.c_void_p).value)
        torch.cuda.memory.change_current_allocator(wrapper)
        self.wrapper = wrapper

    def books(self):
        text = ctypes.create_string_buffer(1 << 16)
        self.library.peakcast_statistics(self.device.index, text, ctypes.c_size_t(len(text)))
        return json.loads(text.value or b"{}")

    def figures(self):
        b = self.books()
        return dict(peak_requested_bytes=b["requested"]["peak_bytes"], peak_allocated_bytes=b["allocated"]["peak_bytes"],
                    peak_active_bytes=b["active"]["peak_bytes"], peak_reserved_bytes=b["reserved"]["peak_bytes"],
                    reserved_bytes=b["reserved"]["current_bytes"], alloc_retries=b["num_alloc_retries"],
                    segments_allocated=b["num_device_alloc"])


class NoAllocator:
    def figures(self):
        return {}


def take_away(amount):
    """Device memory that no allocator sees, so that the card has less of it."""
    runtime = next((ctypes.CDLL(name) for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
                    if can_load(name)), None)
    pointer = ctypes.c_void_p()
    if runtime is None or runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(amount)) != 0:
        fail(f"cannot take {amount} bytes of the card away")


def can_load(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def is_out_of_memory(error):
    import torch
    return isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in str(error)


def write_trace(path, device):
    """The recorded allocator's CSV that `peakcast replay` reads."""
    import torch
    with open(path, "w", encoding="ascii") as file:
        for entry in torch.cuda.memory._snapshot()["device_traces"][device.index]:
            file.write(f"{entry['action']},{entry.get('addr', 0):x},{entry['size']},{entry.get('stream', 0):x},"
                       f"{entry.get('time_us', 0)}\n")


def train(args):
    """Runs the loop that the recordings and predict share; the measurement as a dictionary."""
    if args.alloc_conf and not args.plugged:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = os.environ["PYTORCH_ALLOC_CONF"] = args.alloc_conf
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    import torch
    import transformers
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(0)
    model, config, task = build_model(args)
    parameters = sum(p.numel() for p in model.parameters())
    if args.dry_run:
        device, allocator = torch.device("cpu"), NoAllocator()
    else:
        if args.lock:
            lock = open(args.lock, "w")
            fcntl.flock(lock, fcntl.LOCK_EX)
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        # PyTorch takes another allocator only before its own is set up, which init() does.
        allocator = PluggedAllocator(args, device) if args.plugged else None
        torch.cuda.init()
        torch.cuda.set_device(device)
        allocator = allocator or NativeAllocator(args, device)
        if args.capacity is not None:
            take_away(torch.cuda.get_device_properties(device).total_memory - args.capacity)
        if args.deterministic:
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.cuda.manual_seed(0)
    if args.trace:
        torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=5_000_000)
    phase, iteration, iterations, out_of_memory = "to_device", -1, [], None
    try:
        model = distribute(args, model, device) if args.parallel != "none" else model.to(device)
        with torch.no_grad():
            for p in model.parameters():
                local = p.to_local() if hasattr(p, "to_local") else p.data
                if local.is_floating_point() and (local.dim() >= 2 or args.parallel != "none"):
                    local.normal_(0, 0.02)
        if args.checkpoint != "none":
            inner = model.module if hasattr(model, "module") else model
            inner.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": args.checkpoint == "full-reentrant"})
        model.train()
        optimizer = make_optimizer(args, model.parameters())
        autocast = {"bf16-amp": torch.bfloat16, "fp16-amp": torch.float16}.get(args.precision)
        scaler = torch.amp.GradScaler(device.type) if args.precision == "fp16-amp" else None
        micro_batches = args.batches or [(args.batch, args.seq)]
        if args.dispatch_mode:
            pass_through().__enter__()  # to the end of the process
        for iteration in range(1 if args.dry_run else args.iterations):
            batch, seq = micro_batches[iteration % len(micro_batches)]
            timer = Timer(device)
            phase = "forward"
            if args.zero_grad == "before":
                optimizer.zero_grad()
            for _ in range(args.accumulate):
                phase = "forward"
                data = {k: v.to(device)
                        for k, v in make_batch(task, config, batch, seq, args.target_seq, generator).items()}
                if autocast:
                    with torch.autocast(device.type, dtype=autocast):
                        out = model(**data)
                        loss = out.loss
                else:
                    out = model(**data)
                    loss = out.loss
                if args.accumulate > 1:
                    loss = loss / args.accumulate
                phase = "backward"
                (scaler.scale(loss) if scaler else loss).backward()
            if args.clip_grad:
                phase = "clip"
                if scaler:
                    scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            phase = "step"
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            if args.zero_grad == "after":
                optimizer.zero_grad()
            duration = timer.stop()
            iterations.append(dict(batch=batch, seq=seq, duration_ns=duration, loss=loss.item(), **allocator.figures()))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        out_of_memory = dict(iteration=iteration, phase=phase, message=str(error)[:1000])
    result = dict(schema_version=1, flags=run_words(sys.argv[1:]), parameters=parameters,
                  versions=dict(torch=torch.__version__, transformers=transformers.__version__, cuda=torch.version.cuda),
                  allocator=f"peakcast {args.policy}" if args.plugged else "native",
                  iterations=iterations, oom=out_of_memory)
    if args.dry_run:
        return result
    torch.cuda.synchronize()
    figures = allocator.figures()
    free, total = torch.cuda.mem_get_info(device)
    outside = total - free - figures["reserved_bytes"]
    result.update(card=torch.cuda.get_device_name(device), total_bytes=total, outside_bytes=outside,
                  peak=dict(requested_bytes=figures["peak_requested_bytes"],
                            allocated_bytes=figures["peak_allocated_bytes"], active_bytes=figures["peak_active_bytes"],
                            reserved_bytes=figures["peak_reserved_bytes"],
                            device_bytes=figures["peak_reserved_bytes"] + outside),
                  alloc_retries=figures["alloc_retries"], segments_allocated=figures["segments_allocated"])
    if args.plugged:
        result["books"] = allocator.books()
    if args.trace:
        write_trace(args.trace, device)
    return result


def pass_through():
    """A TorchDispatchMode that sees every operator and changes nothing."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class PassThrough(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    return PassThrough()


class Timer:
    """Device time of an iteration, by events; wall clock on a CPU."""

    def __init__(self, device):
        import torch
        self.torch, self.device = torch, device
        if device.type == "cuda":
            self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.begin.record()
        else:
            self.begin = time.perf_counter_ns()

    def stop(self):
        if self.device.type != "cuda":
            return time.perf_counter_ns() - self.begin
        self.end.record()
        self.torch.cuda.synchronize()
        return int(self.begin.elapsed_time(self.end) * 1e6)


def prediction_of(args, words):
    if args.prediction:
        return json.loads(pathlib.Path(args.prediction).read_text())
    if not args.peakcast:
        return None
    done = subprocess.run([args.peakcast, "predict", *run_words(words), "--format", "json"], capture_output=True,
                          text=True, check=False)
    if done.returncode not in (0, 1):
        fail(done.stderr.strip())
    return json.loads(done.stdout)


def mib(count):
    return f"{count / 2**20:.2f}"


def rows(measured, predicted):
    """(figure, unit, predicted, measured) for all that both know."""
    table = []
    if measured["oom"] is None and "peak" in measured:  # a dry run has none
        for name in ("requested", "allocated", "active", "reserved", "device"):
            table.append((f"peak {name}", "MiB", predicted["peak"][f"{name}_bytes"], measured["peak"][f"{name}_bytes"]))
    for index, (a, b) in enumerate(zip(predicted["iterations"], measured["iterations"])):
        if a.get("duration_ns"):
            table.append((f"iteration {index}", "ms", a["duration_ns"], b["duration_ns"]))
    return table


def oom_text(oom):
    return "none" if oom is None else f"iteration {oom['iteration']}, {oom.get('phase') or '-'}"


def report(args, measured, predicted):
    if args.format == "json":
        print(json.dumps(dict(measured=measured, predicted=predicted), indent=2))
        return
    if not predicted:
        for name, count in measured.get("peak", {}).items():
            print(f"{name:<18}{mib(count):>12} MiB")
        print(f"out of memory     {oom_text(measured['oom'])}")
        return
    print(f"{'':<18}{'predicted':>14}{'measured':>14}{'error':>9}")
    for name, unit, a, b in rows(measured, predicted):
        shown = (mib(a), mib(b)) if unit == "MiB" else (f"{a / 1e6:.2f}", f"{b / 1e6:.2f}")
        print(f"{name:<18}{shown[0]:>14}{shown[1]:>14}{100 * (a - b) / b:>+8.2f}%  {unit}")
    print(f"{'out of memory':<18}{oom_text(predicted['oom']):>28}, measured {oom_text(measured['oom'])}")


def main():
    args = parser().parse_args()
    for flag in CAPTURED_ONLY:
        if getattr(args, flag.replace("-", "_")) is not None:
            fail(f"--{flag} is not trained here: workloads/capture/described_run.py does")
    if args.policy != "pytorch" and not args.plugged and not args.measurement:
        fail("PyTorch runs a policy other than its own only with --plugged")
    if args.measurement:
        measured = json.loads(pathlib.Path(args.measurement).read_text())
    else:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                fail(f"this Python ({sys.executable}) has no {package}; training needs it")
        if not args.dry_run:
            import torch
            if not torch.cuda.is_available():
                print("train.py: no GPU to run on", file=sys.stderr)
                sys.exit(NO_GPU)
        measured = train(args)
        if args.save:
            pathlib.Path(args.save).write_text(json.dumps(measured, indent=1) + "\n")
    report(args, measured, prediction_of(args, sys.argv[1:]))
    sys.exit(0 if measured["oom"] is None else 1)


if __name__ == "__main__":
    main()
