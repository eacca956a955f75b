"""Described runs that are cut into stages: torch.distributed.pipelining's, and Megatron-Core's whole program.

Beside described_run.py, which runs it. Here the batch is the micro-batch, of which a step takes --microbatches.
"""
import copy

import torch

from described_parallel import DTYPES, Refused, mesh_of, start_ranks


def degree(inputs, name, default=1):
    return inputs.get(name) or default


class Stage(torch.nn.Module):
    """Some layers of a decoder; the first with its embedding, the last with its norm and head."""

    def __init__(self, model, index, count):
        super().__init__()
        base = model.base_model
        blocks = list(base.layers)
        sizes = [len(part) for part in torch.tensor_split(torch.arange(len(blocks)), count)]
        begin = sum(sizes[:index])
        self.base = copy.copy(base)
        self.base._modules = dict(base._modules)
        self.base.layers = torch.nn.ModuleList(blocks[begin:begin + sizes[index]])
        self.base.config = copy.copy(base.config)
        self.base.config.num_hidden_layers = sizes[index]
        if getattr(base.config, "layer_types", None):
            self.base.config.layer_types = base.config.layer_types[begin:begin + sizes[index]]
        self.first, self.last = index == 0, index == count - 1
        if not self.first:
            self.base.embed_tokens = None
        if not self.last:
            self.base.norm = torch.nn.Identity()
        if hasattr(base, "rotary_emb"):
            self.base.rotary_emb = copy.deepcopy(base.rotary_emb)
        self.head = model.get_output_embeddings() if self.last else None

    def forward(self, x):
        out = self.base(**{"input_ids" if self.first else "inputs_embeds": x}, use_cache=False)
        hidden = out.last_hidden_state
        return self.head(hidden) if self.last else hidden


def token_loss(logits, labels):
    logits = logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def stages_of(model, inputs, stages_here, count, precision):
    """This rank's stages, on the card."""
    from torch.distributed.pipelining import PipelineStage

    batch, seq = inputs["batch"], inputs["seq"]
    hidden, vocab = model.config.hidden_size, model.config.vocab_size
    kind = DTYPES[precision] if precision in DTYPES else torch.float32
    between = DTYPES[precision.removesuffix("-amp")] if precision.endswith("-amp") else kind
    stages = []
    for index in stages_here:
        module = Stage(model, index, count).to("cuda").train()
        ids = torch.empty(batch, seq, dtype=torch.long, device="meta")
        states = torch.empty(batch, seq, hidden, dtype=kind, device="meta", requires_grad=True)
        logits = torch.empty(batch, seq, vocab, dtype=between, device="meta")
        stages.append(PipelineStage(module, index, count, torch.device("cuda", torch.cuda.current_device()),
                                    input_args=ids if index == 0 else states,
                                    output_args=logits if index == count - 1 else states,
                                    group=inputs["stage_group"]))
    return stages


def train_pipeline(model, inputs, optimizer_of):
    """One-forward-one-backward, interleaved where a rank has several stages."""
    import contextlib

    from torch.distributed.pipelining import Schedule1F1B, ScheduleInterleaved1F1B

    base = model.base_model
    if not all(hasattr(base, name) for name in ("embed_tokens", "layers", "norm")) or hasattr(base, "wpe"):
        raise Refused(f"--parallel pp cuts decoders of embedding, layers and norm; {model.config.model_type} is none")
    world = inputs["world"]
    ranks = degree(inputs, "pipeline_parallel", world)
    start_ranks(world)
    if world % ranks:
        raise Refused(f"--world {world} is no multiple of --pipeline-parallel {ranks}")
    mesh = mesh_of(world, stages=ranks, data=world // ranks)
    inputs["stage_group"] = mesh["stages"].get_group()
    here, rounds = mesh["stages"].get_local_rank(), degree(inputs, "virtual_pipeline")
    count = ranks * rounds
    if count > len(base.layers):
        raise Refused(f"{count} stages are more than the model's {len(base.layers)} layers")
    microbatches = degree(inputs, "microbatches", ranks)
    precision = inputs["precision"]
    stages = stages_of(model, inputs, range(here, count, ranks), count, precision)
    del model, base
    if world > ranks:
        for stage in stages:
            stage.submod = torch.nn.parallel.DistributedDataParallel(
                stage.submod, device_ids=[torch.cuda.current_device()], process_group=mesh["data"].get_group())
    parts = torch.nn.ModuleList([stage.submod for stage in stages])
    schedule = (Schedule1F1B(stages[0], microbatches, loss_fn=token_loss) if rounds == 1 else
                ScheduleInterleaved1F1B(stages, microbatches, loss_fn=token_loss))
    optimizer = optimizer_of(parts, inputs)
    generator = torch.Generator().manual_seed(7)
    for _ in range(inputs["iterations"]):
        if inputs["zero_grad"] == "before":
            optimizer.zero_grad()
        ids = torch.randint(5, inputs["vocab"], (microbatches * inputs["batch"], inputs["seq"]), generator=generator)
        takes = {}
        if any(stage.is_last for stage in stages):
            takes = dict(target=ids.to("cuda"), losses=[])
        given = (ids.to("cuda"),) if any(stage.is_first for stage in stages) else ()
        amp = precision.endswith("-amp")
        with torch.autocast("cuda", DTYPES[precision.removesuffix("-amp")]) if amp else contextlib.nullcontext():
            schedule.step(*given, **takes)
        if inputs["clip_grad"]:
            torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if inputs["zero_grad"] == "after":
            optimizer.zero_grad()
        torch.cuda.synchronize()


# -- Megatron-Core ---------------------------------------------------------------------------------


def megatron_core():
    try:
        import megatron.core
    except ImportError as missing:
        raise Refused("--parallel megatron runs Megatron-Core, which this Python lacks: "
                      f"pip install megatron-core ({missing})") from missing
    return megatron.core


def has_transformer_engine():
    import importlib.util

    return importlib.util.find_spec("transformer_engine") is not None


def check_megatron(config, inputs):
    """What Megatron-Core's local layers do not do. Seen with 0.16.1: their norms take no piece of a sequence,
    their router calls Transformer Engine, and attention over a cut context is its."""
    if has_transformer_engine():
        return
    wants = {"--sequence-parallel": inputs.get("sequence_parallel"),
             "--context-parallel": degree(inputs, "context_parallel") > 1,
             f"{config.model_type}'s experts": getattr(config, "num_local_experts", None) or
                                               getattr(config, "num_experts", None)}
    for what, wanted in wants.items():
        if wanted:
            raise Refused(f"{what} with --parallel megatron needs Transformer Engine, which this Python lacks")


def megatron_config(config, inputs):
    """A Hugging Face decoder's fields in Megatron's words."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if not all(hasattr(config, name) for name in needed) or not hasattr(config, "rms_norm_eps"):
        raise Refused(f"--parallel megatron: {config.model_type} is not a decoder with RMS norms and gated layers")
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    expert_fields = dict(
        num_moe_experts=experts, moe_router_topk=getattr(config, "num_experts_per_tok", None) or 2,
        moe_ffn_hidden_size=getattr(config, "moe_intermediate_size", None) or config.intermediate_size,
        moe_token_dispatcher_type="alltoall") if experts else {}
    recompute = {"none": {}, "selective": dict(recompute_granularity="selective"),
                 "full": dict(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)}
    precision = inputs["precision"].removesuffix("-amp")
    tensor = degree(inputs, "tensor_parallel")
    if inputs.get("sequence_parallel") and tensor == 1:
        raise Refused("--sequence-parallel needs --tensor-parallel above 1")
    return TransformerConfig(
        num_layers=config.num_hidden_layers, hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        ffn_hidden_size=config.intermediate_size, kv_channels=getattr(config, "head_dim", None),
        normalization="RMSNorm", layernorm_epsilon=config.rms_norm_eps, gated_linear_unit=True,
        activation_func=torch.nn.functional.silu, add_bias_linear=False,
        add_qkv_bias=config.model_type.startswith("qwen2"),
        qk_layernorm=config.model_type.startswith("qwen3"), hidden_dropout=0.0, attention_dropout=0.0,
        **expert_fields,
        tensor_model_parallel_size=tensor, sequence_parallel=bool(inputs.get("sequence_parallel")),
        pipeline_model_parallel_size=degree(inputs, "pipeline_parallel"),
        virtual_pipeline_model_parallel_size=inputs.get("virtual_pipeline") or None,
        context_parallel_size=degree(inputs, "context_parallel"),
        expert_model_parallel_size=degree(inputs, "expert_parallel"),
        pipeline_dtype=DTYPES[precision], params_dtype=DTYPES[precision], bf16=precision == "bf16",
        fp16=precision == "fp16", use_cpu_initialization=True, perform_initialization=False,
        gradient_accumulation_fusion=False, batch_p2p_comm=True, **recompute[inputs.get("recompute") or "none"])


def megatron_modules(config, inputs, fields):
    """This rank's pieces, one for each of its stages."""
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt import gpt_layer_specs as specs

    options = dict(num_experts=fields.num_moe_experts, moe_grouped_gemm=False, qk_layernorm=fields.qk_layernorm)
    spec = (specs.get_gpt_layer_with_transformer_engine_spec(**options) if has_transformer_engine() else
            specs.get_gpt_layer_local_spec(normalization="RMSNorm", **options))
    rounds = degree(inputs, "virtual_pipeline")
    modules = []
    for index in range(rounds):
        stage = {"vp_stage": index} if rounds > 1 else {}
        modules.append(GPTModel(
            config=fields, transformer_layer_spec=spec, vocab_size=config.vocab_size,
            max_sequence_length=inputs["seq"],
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=rounds == 1, **stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=rounds == 1, **stage),
            share_embeddings_and_output_weights=bool(getattr(config, "tie_word_embeddings", False)),
            position_embedding_type="rope", rotary_base=rope_base(config), **stage))
    return modules


def rope_base(config):
    base = getattr(config, "rope_theta", None)
    return int(base or (getattr(config, "rope_parameters", None) or {}).get("rope_theta") or 10000)


def train_megatron(config, inputs):
    """Megatron-Core's own models, wrappers, optimizer and schedules, with its local layers where no
    Transformer Engine is installed."""
    megatron_core()
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.transformer.module import Float16Module

    world = inputs["world"]
    degrees = [degree(inputs, name) for name in ("tensor_parallel", "pipeline_parallel", "context_parallel")]
    product = degrees[0] * degrees[1] * degrees[2]
    if world % product:
        raise Refused(f"--world {world} is no multiple of the tensor, pipeline and context degrees' product {product}")
    check_megatron(config, inputs)
    fields = megatron_config(config, inputs)
    start_ranks(world)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=degrees[0], pipeline_model_parallel_size=degrees[1],
        virtual_pipeline_model_parallel_size=inputs.get("virtual_pipeline") or None,
        context_parallel_size=degrees[2], expert_model_parallel_size=degree(inputs, "expert_parallel"))
    tensor_parallel.model_parallel_cuda_manual_seed(7)
    sharded = inputs.get("distributed_optimizer") in (True, "on")
    wrapped = []
    for index, module in enumerate(megatron_modules(config, inputs, fields)):
        module = module.to("cuda")
        if fields.bf16 or fields.fp16:
            module = Float16Module(fields, module)
        wrapped.append(DistributedDataParallel(
            fields, DistributedDataParallelConfig(use_distributed_optimizer=sharded, grad_reduce_in_fp32=True,
                                                  overlap_grad_reduce=False), module, disable_bucketing=index > 0))
    optimizer = get_megatron_optimizer(
        OptimizerConfig(optimizer="adam", lr=1e-5, bf16=fields.bf16, fp16=fields.fp16, params_dtype=fields.params_dtype,
                        use_distributed_optimizer=sharded, clip_grad=1.0 if inputs["clip_grad"] else 0.0,
                        loss_scale=1.0 if fields.fp16 else None), wrapped)
    fields.finalize_model_grads_func = finalize_model_grads
    fields.grad_scale_func = optimizer.scale_loss
    batch, seq = inputs["batch"], inputs["seq"]
    microbatches = degree(inputs, "microbatches", degrees[1])
    generator = torch.Generator().manual_seed(7)
    here = seq // degrees[2]

    def data():
        while True:
            ids = torch.randint(5, config.vocab_size, (batch, here + 1), generator=generator).to("cuda")
            yield ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def summed(losses):
        return losses.float().mean(), {"loss": losses.detach().mean()}

    def forward(batches, module):
        ids, labels = next(batches)
        positions = torch.arange(here, device="cuda").unsqueeze(0).expand(batch, -1)
        return module(ids, positions, None, labels=labels), summed

    schedule = get_forward_backward_func()
    for module in wrapped:
        module.train()
    for _ in range(inputs["iterations"]):
        for module in wrapped:
            module.zero_grad_buffer()
        optimizer.zero_grad()
        schedule(forward_step_func=forward, data_iterator=[data() for _ in wrapped] if len(wrapped) > 1 else data(),
                 model=wrapped if len(wrapped) > 1 else wrapped[0], num_microbatches=microbatches, seq_length=seq,
                 micro_batch_size=batch, forward_only=False)
        optimizer.step()
        torch.cuda.synchronize()
