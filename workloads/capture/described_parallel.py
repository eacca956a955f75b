"""How the ranks of a described run share it: data-parallel wrappers, DeepSpeed's ZeRO, tensor parallelism.

Beside described_run.py, which runs it. What cuts the program itself, pipelines and Megatron, is in
described_pipeline.py.
"""
import os
import re

import torch


class Refused(Exception):
    """What the flags ask for and this program does not do."""


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def offloads(inputs):
    words = [word for word in (inputs.get("offload") or "").split(",") if word and word != "none"]
    for word in words:
        if word not in ("params", "optimizer", "activations"):
            raise Refused(f"--offload {word}: params, optimizer or activations")
    return words


def layers_of(model):
    """The repeated blocks that sharding wraps: the classes that transformers says not to split."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        names |= set(getattr(module, "_no_split_modules", None) or ())
    return {type(m) for m in model.modules() if type(m).__name__ in names}


def start_ranks(world):
    import torch.distributed as dist

    for name, value in (("RANK", "0"), ("WORLD_SIZE", str(world)), ("LOCAL_RANK", "0"),
                        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29501")):
        os.environ.setdefault(name, value)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    return int(os.environ["LOCAL_RANK"])


def mesh_of(world, **dimensions):
    from torch.distributed.device_mesh import init_device_mesh

    product = 1
    for degree in dimensions.values():
        product *= degree
    if product != world:
        raise Refused(f"--world {world} is not the product of the degrees {dimensions}")
    return init_device_mesh("cuda", tuple(dimensions.values()), mesh_dim_names=tuple(dimensions))


def shard_dtype(word):
    return None if word in (None, "same") else DTYPES[word]


def with_fsdp1(model, inputs, rank):
    from functools import partial

    from torch.distributed.fsdp import (BackwardPrefetch, CPUOffload, FullyShardedDataParallel, MixedPrecision,
                                        ShardingStrategy)
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    strategies = {"full": ShardingStrategy.FULL_SHARD, "grad-op": ShardingStrategy.SHARD_GRAD_OP,
                  "hybrid": ShardingStrategy.HYBRID_SHARD, "none": ShardingStrategy.NO_SHARD}
    prefetches = {"pre": BackwardPrefetch.BACKWARD_PRE, "post": BackwardPrefetch.BACKWARD_POST, "none": None}
    held = shard_dtype(inputs["shard_precision"])
    reduced = shard_dtype(inputs["reduce_precision"]) or held
    mixed = MixedPrecision(param_dtype=held, reduce_dtype=reduced, buffer_dtype=held) if held or reduced else None
    return FullyShardedDataParallel(
        model, auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls=layers_of(model)),
        sharding_strategy=strategies[inputs["shard"]], mixed_precision=mixed, device_id=rank, use_orig_params=True,
        limit_all_gathers=inputs["limit_all_gathers"] == "on", forward_prefetch=inputs["forward_prefetch"] == "on",
        backward_prefetch=prefetches[inputs["backward_prefetch"]],
        cpu_offload=CPUOffload(offload_params=True) if "params" in offloads(inputs) else None)


def with_fsdp2(model, inputs, mesh):
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    options = dict(mesh=mesh, reshard_after_forward=inputs["reshard_after_forward"] == "on")
    held = shard_dtype(inputs["shard_precision"])
    reduced = shard_dtype(inputs["reduce_precision"])
    if held or reduced:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=held, reduce_dtype=reduced)
    if "params" in offloads(inputs):
        options["offload_policy"] = CPUOffloadPolicy()
    layers = layers_of(model)
    for module in list(model.modules()):
        if type(module) in layers:
            fully_shard(module, **options)
    fully_shard(model, **options)
    if "params" not in offloads(inputs):
        model.to("cuda")
    return model


# -- DeepSpeed -------------------------------------------------------------------------------------


def zero_config(inputs, micro_batch):
    """DeepSpeed's, with its defaults where no flag says otherwise."""
    zero = {"stage": int(inputs["parallel"].removeprefix("zero"))}
    for word, key in (("optimizer", "offload_optimizer"), ("params", "offload_param")):
        if word in offloads(inputs):
            if word == "params" and zero["stage"] != 3:
                raise Refused("--offload params needs --parallel zero3")
            zero[key] = {"device": "cpu"}
    config = {"train_micro_batch_size_per_gpu": micro_batch,
              "gradient_accumulation_steps": inputs["accumulate"],
              "zero_optimization": zero,
              "zero_allow_untested_optimizer": True,
              "zero_force_ds_cpu_optimizer": False}
    precision = inputs["precision"]
    if precision in ("bf16", "fp16"):
        config[precision] = {"enabled": True}
    elif precision == "bf16-amp":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    elif precision != "fp32":
        raise Refused(f"--precision {precision}: DeepSpeed's fp16 is --precision fp16")
    return config


def zero_init(inputs, micro_batch):
    """The context in which --zero-init makes the model: parameters are born as shards."""
    import deepspeed

    return deepspeed.zero.Init(config_dict_or_path=zero_config(inputs, micro_batch))


class ZeroEngine:
    """DeepSpeed's engine in the words of the loop: it scales, clips and steps by itself."""

    def __init__(self, model, optimizer, inputs, micro_batch):
        import deepspeed

        self.engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer,
                                                    config=zero_config(inputs, micro_batch))

    def __call__(self, **data):
        return self.engine(**data)

    def backward(self, loss):
        self.engine.backward(loss)

    def step(self):
        self.engine.step()

    def zero_grad(self):
        pass  # in step()


# -- Tensor parallelism ----------------------------------------------------------------------------


def style_of(plan, name):
    return plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))


def replicated_style():
    """Whole on every rank, as a distributed tensor all the same: optimizers step over one kind."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_module
    from torch.distributed.tensor.parallel import ParallelStyle

    class Whole(ParallelStyle):
        def _apply(self, module, device_mesh):
            def inwards(module, args, mesh):
                return tuple(DTensor.from_local(a, mesh, [Replicate()], run_check=False)
                             if torch.is_tensor(a) and not isinstance(a, DTensor) else a for a in args)

            def outwards(module, out, mesh):
                return out.to_local() if isinstance(out, DTensor) else out

            return distribute_module(module, device_mesh, None, inwards, outwards)

    return Whole()


def gathered_inputs(mesh):
    """A hook that makes a block's sharded sequence whole; backward, its gradient is reduced in pieces."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    def whole(x):
        if not torch.is_tensor(x) or not x.is_floating_point() or x.dim() != 3:
            return x
        if not isinstance(x, DTensor):
            x = DTensor.from_local(x, mesh, [Shard(1)], run_check=False)
        return x.redistribute(placements=[Replicate()])

    def hook(module, args, kwargs):
        if args:
            return (whole(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": whole(kwargs["hidden_states"])}

    return hook


def tensor_parallel(model, mesh, sequence_parallel):
    """By the plan that transformers keeps with each family: column- and row-wise products, the vocabulary cut
    at both ends, and with `sequence_parallel` the norms and what adds up between them cut along the sequence.
    Weights come to the card one by one and leave it but for their shard."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (ColwiseParallel, RowwiseParallel, SequenceParallel,
                                                   parallelize_module)

    plan = dict(getattr(model.config, "base_model_tp_plan", None) or {})
    if not plan:
        raise Refused(f"transformers keeps no tensor-parallel plan for {model.config.model_type}")
    styles = {"colwise": lambda: ColwiseParallel(),
              "rowwise": lambda: RowwiseParallel(output_layouts=Shard(1) if sequence_parallel else Replicate())}
    degree = mesh.size()
    base = model.base_model
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    heads = getattr(model.config, "num_key_value_heads", None) or model.config.num_attention_heads
    if heads % degree or model.config.num_attention_heads % degree:
        raise Refused(f"--tensor-parallel {degree} does not divide the model's {heads} key and value heads")

    def cut(module, style):
        parallelize_module(module, mesh, style, src_data_rank=None)

    planned = set()
    for name, module in list(base.named_modules()):
        style = style_of(plan, name)
        if module is embedding or module is head:  # below, with or without a plan for them
            continue
        if style in styles and isinstance(module, torch.nn.Linear):
            cut(module, styles[style]())
            planned.add(name)
        elif style is not None and style not in ("replicated_with_grad_allreduce",):
            raise Refused(f"--parallel tp: transformers' plan for {model.config.model_type} cuts {name} {style}; "
                          "column and row are known here ('peakcast capture -- PROGRAM' runs a program of your own)")
    if not planned:
        raise Refused(f"transformers' plan for {model.config.model_type} cuts no linear layer")
    cut(embedding, RowwiseParallel(input_layouts=Replicate(),
                                   output_layouts=Shard(1) if sequence_parallel else Replicate()))
    if head is not None:
        cut(head, ColwiseParallel(input_layouts=Shard(1) if sequence_parallel else Replicate(),
                                  output_layouts=Replicate()))
        if tied:
            head.weight = embedding.weight
    if sequence_parallel:
        hook = gathered_inputs(mesh)
        layers = layers_of(model)
        for layer_name, layer in list(base.named_modules()):
            if type(layer) not in layers:
                continue
            for name, child in layer.named_children():
                if any(p.startswith(f"{layer_name}.{name}.") for p in planned):
                    child.register_forward_pre_hook(hook, with_kwargs=True)
                elif type(child).__name__.endswith("Norm"):
                    cut(child, SequenceParallel())
        for name, child in base.named_children():
            if type(child).__name__.endswith("Norm"):
                cut(child, SequenceParallel())
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        if any(not isinstance(p, DTensor) for p in module.parameters(recurse=False)):
            cut(module, replicated_style())
    return model.to("cuda")


def on_card(model, inputs):
    """Moves or shards the model as --parallel says."""
    parallel = inputs["parallel"]
    if parallel == "none":
        return model.to("cuda")
    rank = start_ranks(inputs["world"])
    if parallel == "ddp":
        return torch.nn.parallel.DistributedDataParallel(
            model.to("cuda"), device_ids=[rank], gradient_as_bucket_view=inputs["bucket_view"] == "on",
            bucket_cap_mb=inputs["bucket_mb"])
    if parallel == "fsdp1":
        return with_fsdp1(model, inputs, rank)
    world = inputs["world"]
    if parallel == "fsdp2":
        return with_fsdp2(model, inputs, mesh_of(world, data=world))
    if parallel in ("tp", "fsdp2+tp"):
        degree = inputs.get("tensor_parallel") or (world if parallel == "tp" else 0)
        if not degree:
            raise Refused("--parallel fsdp2+tp needs --tensor-parallel")
        if world % degree or (parallel == "tp" and world != degree):
            raise Refused(f"--world {world} and --tensor-parallel {degree}: " +
                          ("fsdp2+tp shards over the ranks beside" if world % degree == 0 else "no multiple"))
        mesh = mesh_of(world, data=world // degree, tensor=degree)
        model = tensor_parallel(model, mesh["tensor"], inputs.get("sequence_parallel"))
        return with_fsdp2(model, inputs, mesh["data"]) if world > degree else model
    raise Refused(f"--parallel {parallel} is not known")
