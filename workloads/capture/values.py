# Runs inside the captured program: computes integers. No kernel runs on an emulated card, but small
# integer and boolean tensors decide sizes (masks, indices, lengths). Those that the host copied to the
# card are known there; operations on them are computed on the host besides, and their bytes put where a
# kernel would put them, so that what is read back is the data itself. The allocator sees nothing of it.
# An index that follows from numbers which nobody computed (a router's top-k, a sampled token) is taken
# to be balanced, and reported.
def _peakcast_values(native):
    import ctypes
    import sys
    import torch

    Tensor = torch.Tensor
    PLAIN = (Tensor, torch.nn.Parameter)
    INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    LIMIT = 1 << 22  # elements of a tensor that is computed
    pointer, size_t = ctypes.c_void_p, ctypes.c_size_t
    native.peakcast_values_known.argtypes = [pointer, size_t]
    native.peakcast_values_learn.argtypes = [pointer, size_t]
    native.peakcast_values_forget.argtypes = [pointer, size_t]
    native.peakcast_values_answers.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_int]
    known_range, learn_range = native.peakcast_values_known, native.peakcast_values_learn
    forget_range, keep_large = native.peakcast_values_forget, native.peakcast_values_keep_large
    is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
    modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    random = torch.Generator()  # of our own: the program's random numbers stay what they are

    def is_ours(t):
        return type(t) in PLAIN and t.is_cuda and t.dtype in INTEGERS

    def span(t):
        elements = 1
        for size, stride in zip(t.shape, t.stride()):
            elements += (size - 1) * stride
        return elements * t.element_size()

    def is_known(t):
        count = t.numel()
        return count == 0 or (count <= LIMIT and bool(known_range(t.data_ptr(), span(t))))

    def alias(t):
        """The card's bytes as a tensor of the host."""
        if t.numel() == 0:
            return torch.empty(t.shape, dtype=t.dtype, device="cpu")
        bytes_ = (ctypes.c_char * span(t)).from_address(t.data_ptr())
        return torch.frombuffer(bytes_, dtype=t.dtype).as_strided(t.shape, t.stride())

    def forget(t):
        if t.numel():
            forget_range(t.data_ptr(), span(t))

    def put(out, value):
        """Gives what came out on the card the value that came out on the host."""
        if isinstance(out, (tuple, list)):
            for one, its in zip(out, value):
                put(one, its)
        elif isinstance(out, Tensor) and isinstance(value, Tensor) and not out.is_cuda:
            if out.shape == value.shape and out.data_ptr() != value.data_ptr():
                out.copy_(value)
        elif is_ours(out) and isinstance(value, Tensor) and value.shape == out.shape and out.numel():
            if out.numel() <= LIMIT and 0 not in out.stride():  # an expanded one is a view of what is known
                if not is_dense(out):
                    forget(out)
                else:
                    alias(out).copy_(value)
                    learn_range(out.data_ptr(), span(out))

    def is_dense(t):
        return span(t) == t.numel() * t.element_size() or is_known(t)

    class Unknown(Exception):
        pass

    def to_host(x):
        """The same argument for the host; raises Unknown where its value is not known."""
        if isinstance(x, Tensor):
            if not x.is_cuda:
                return x
            if not is_ours(x) or not is_known(x):
                raise Unknown
            return alias(x)
        if isinstance(x, (tuple, list)):
            return type(x)(to_host(y) for y in x) if type(x) in (tuple, list) else x
        if isinstance(x, torch.device) and x.type == "cuda" or isinstance(x, str) and x.startswith("cuda"):
            return "cpu"
        return x

    def answers(*values):
        array = (ctypes.c_int64 * max(1, len(values)))(*values)
        native.peakcast_values_answers(array, len(values))

    def note(question, answer):
        native.peakcast_values_assume(question.encode(), answer.encode())

    def computed(orig, args, kwargs, copies):
        """What the host computes of known arguments; None when it cannot. `copies`: args[0] is written to."""
        try:
            host = [to_host(x) for x in args]
            named = {k: to_host(v) for k, v in kwargs.items()}
            if copies:
                host[0] = host[0].clone()
            with torch.no_grad():
                return orig(*host, **named)
        except Exception:
            return None

    # What the operations of C++ read back in the middle, in order.
    def counts(orig, args, value):
        name = orig.__name__
        if name in ("nonzero", "argwhere", "where"):
            return [value[0].numel() if isinstance(value, tuple) else value.shape[0]]
        if name in ("unique", "unique_consecutive", "_unique2", "unique_dim"):
            first = value[0] if isinstance(value, tuple) else value
            return [first.shape[0]]
        if name == "masked_select":
            return [value.numel()]
        if name == "bincount":
            host = to_host(args[0])
            return [int(host.min()), int(host.max())] if host.numel() else []
        if name == "repeat_interleave":
            return [value.numel()] if len(args) == 1 else [int(to_host(args[1]).sum())] if isinstance(args[1], Tensor) else []
        if name == "equal":
            return [int(value)]
        return []

    def wrap_values(orig):
        name = orig.__name__

        def wrapper(*args, **kwargs):
            first = args[0] if args else None
            if is_compiling() or not is_ours(first) or modes():
                return orig(*args, **kwargs)
            value = computed(orig, args, kwargs, False)
            if value is None:
                return orig(*args, **kwargs)
            wanted = counts(orig, args, value)
            if wanted:
                answers(*wanted)
            try:
                out = orig(*args, **kwargs)
            finally:
                if wanted:
                    answers()
            if name in ("tolist", "item", "numpy"):
                return value
            put(out, value)
            return out
        return wrapper

    def wrap_in_place(orig, computes):
        def wrapper(*args, **kwargs):
            first = args[0] if args else None
            if is_compiling() or not is_ours(first) or modes():
                return orig(*args, **kwargs)
            value = computed(orig, args, kwargs, True) if computes else None
            target = args[0]
            out = orig(*args, **kwargs)
            if isinstance(value, Tensor) and value.shape == target.shape:
                alias(target).copy_(value)
                learn_range(target.data_ptr(), span(target))
            else:
                forget(target)
            return out
        return wrapper

    def wrap_move(orig):
        def wrapper(*args, **kwargs):
            first = args[-1] if orig.__name__ == "copy_" and len(args) > 1 else args[0] if args else None
            if is_compiling() or type(first) not in PLAIN or first.dtype not in INTEGERS or modes():
                return orig(*args, **kwargs)
            if first.is_cuda:
                return moved(*args, **kwargs)
            keep_large(1)
            try:
                return orig(*args, **kwargs)
            finally:
                keep_large(0)
        moved = wrap_in_place(orig, True) if orig.__name__ == "copy_" else wrap_values(orig)
        return wrapper

    def wrap_make(orig):
        """What makes a tensor of numbers that the arguments give."""
        def wrapper(*args, **kwargs):
            keep_large(1)
            try:
                out = orig(*args, **kwargs)
            finally:
                keep_large(0)
            if is_compiling() or not is_ours(out) or modes() or orig.__name__ in ("tensor", "as_tensor"):
                return out
            if out.numel() <= LIMIT and not is_known(out):
                try:
                    named = {k: to_host(v) for k, v in kwargs.items() if k not in ("out", "generator")}
                    host = [torch.empty(x.shape, dtype=x.dtype, device="cpu") if is_ours(x) else x for x in args]
                    if orig.__name__ in ("randint", "randperm", "randint_like"):
                        named["generator"] = random
                    named["device"] = "cpu"  # the program's default may be the card
                    put(out, orig(*host, **named))
                except Exception:
                    pass
            return out
        return wrapper

    def wrap_any(orig):
        """Any argument may be the one: where, cat, stack."""
        chosen = wrap_values(orig)

        def wrapper(*args, **kwargs):
            if len(args) == 1 and not kwargs and orig.__name__ == "where":
                return chosen(*args)  # the indices
            out = orig(*args, **kwargs)
            if not is_compiling() and is_ours(out) and not modes():
                value = computed(orig, args, kwargs, False)
                if value is not None:
                    put(out, value)
            return out
        return wrapper

    def wrap_index(orig):
        """x[mask]: how many are chosen."""
        values = wrap_values(orig)

        def wrapper(self, index):
            if is_compiling() or type(self) not in PLAIN or not self.is_cuda or modes():
                return orig(self, index)
            several = index if isinstance(index, tuple) else (index,)
            masks = [m for m in several if type(m) in PLAIN and m.is_cuda and m.dtype in (torch.bool, torch.uint8)]
            if masks and all(is_known(m) for m in masks):
                answers(*[remember(m, m.numel()) or 0 for m in masks])
                try:
                    out = orig(self, index)
                finally:
                    answers()
                if is_ours(self):
                    value = computed(orig, (self, index), {}, False)
                    if value is not None:
                        put(out, value)
                return out
            return values(self, index) if is_ours(self) else orig(self, index)
        return wrapper

    def remember(mask, of):
        """What a mask chooses, spread over `of` elements."""
        if mask.numel() and of % mask.numel() == 0:
            chosen_ = int(alias(mask).count_nonzero()) * (of // mask.numel())
            native.peakcast_values_chosen(ctypes.c_int64(of), ctypes.c_int64(chosen_))
            return chosen_
        return None

    def wrap_mask(orig):
        """masked_scatter, masked_select of anything: by a mask that is known."""
        values = wrap_in_place(orig, True) if orig.__name__.endswith("_") else wrap_values(orig)

        def wrapper(*args, **kwargs):
            mask = args[1] if len(args) > 1 else None
            if is_compiling() or type(mask) not in PLAIN or not is_ours(mask) or modes() or not is_known(mask):
                return values(*args, **kwargs)
            try:
                of = torch.broadcast_shapes(args[0].shape, mask.shape).numel()
            except Exception:
                return values(*args, **kwargs)
            count = remember(mask, of)
            if orig.__name__ == "masked_select" and count is not None and not is_ours(args[0]):
                answers(count)
                try:
                    return orig(*args, **kwargs)
                finally:
                    answers()
            return values(*args, **kwargs)
        return wrapper

    def wrap_set_index(orig):
        def wrapper(self, index, value):
            if is_compiling() or type(self) not in PLAIN or not self.is_cuda or modes():
                return orig(self, index, value)
            if is_ours(self):
                try:
                    host = to_host(self).clone()
                    orig(host, to_host(index), to_host(value))
                except Exception:
                    host = None
                orig(self, index, value)
                if host is None:
                    forget(self)
                else:
                    alias(self).copy_(host)
                return
            several = index if isinstance(index, tuple) else (index,)
            masks = [m for m in several if type(m) in PLAIN and m.is_cuda and m.dtype == torch.bool]
            if masks and all(is_known(m) for m in masks):
                answers(*[int(alias(m).count_nonzero()) for m in masks])
                try:
                    orig(self, index, value)
                finally:
                    answers()
                return
            orig(self, index, value)
        return wrapper

    def balanced(shape, choices):
        """Indices below `choices`: each equally often, none twice in a row of the last dimension."""
        count = 1
        for size in shape:
            count *= size
        return (torch.arange(count, device="cpu") % max(1, choices)).reshape(shape)

    def wrap_choice(orig):
        """Indices of what nobody computed."""
        name = orig.__name__
        integers = wrap_values(orig)

        def wrapper(*args, **kwargs):
            first = args[0] if args else kwargs.get("input")
            if is_compiling() or type(first) not in PLAIN or not first.is_cuda or modes():
                return orig(*args, **kwargs)
            if first.dtype in INTEGERS:
                return integers(*args, **kwargs)
            out = orig(*args, **kwargs)
            index = out[1] if isinstance(out, tuple) else out
            if is_ours(index) and 0 < index.numel() <= LIMIT:
                if name in ("sort", "argsort"):
                    dim = kwargs.get("dim", args[1] if len(args) > 1 and type(args[1]) is int else -1)
                    view = [1] * index.dim()
                    view[dim] = index.shape[dim]
                    put(index, torch.arange(index.shape[dim], device="cpu").view(view).expand(index.shape))
                elif first.dim():
                    dim = first.dim() - 1
                    given = kwargs.get("dim", args[2] if name == "topk" and len(args) > 2 else args[1] if name in ("argmax", "argmin") and len(args) > 1 else None)
                    if type(given) is int:
                        dim = given
                    choices = first.shape[dim] if given is not None or name in ("topk", "multinomial") else first.numel()
                    if name == "topk" and dim not in (-1, first.dim() - 1):
                        return out
                    put(index, balanced(index.shape, choices))
                note(name, "balanced, or in order")
            return out
        return wrapper

    VALUES = """add sub mul floor_divide remainder fmod neg abs sign clamp clamp_min clamp_max maximum minimum
        bitwise_and bitwise_or bitwise_xor bitwise_not logical_and logical_or logical_not logical_xor
        eq ne lt le gt ge equal square sum all any max min amax amin prod count_nonzero cumsum cumprod cummax diff
        clone contiguous long int bool short byte type type_as repeat tile flip roll reshape flatten masked_fill where
        gather index_select take take_along_dim scatter scatter_add tril triu unique unique_consecutive
        bincount nonzero argwhere repeat_interleave isin searchsorted bucketize msort index_add
        index_fill index_put index_copy scatter_reduce nan_to_num tolist item cpu""".split()
    DUNDERS = """__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __floordiv__ __mod__ __and__ __rand__ __or__ __ror__ __xor__
        __invert__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __neg__ __lshift__ __rshift__""".split()
    IN_PLACE = """add_ sub_ mul_ floor_divide_ remainder_ clamp_ fill_ zero_ masked_fill_ scatter_ scatter_add_ index_add_
        index_put_ index_fill_ index_copy_ logical_and_ logical_or_ logical_not_ bitwise_and_ bitwise_or_ neg_ abs_
        __iadd__ __isub__ __imul__ __iand__ __ior__ cumsum_ eq_ ne_""".split()
    MAKE = "arange zeros ones full eye zeros_like ones_like full_like randint randperm randint_like tensor as_tensor".split()
    NEW = "new_zeros new_ones new_full new_tensor".split()
    CHOICE = "topk argmax argmin sort argsort multinomial".split()

    patches = []  # (owner, name, original, ours)

    def patch(owner, name, maker):
        original = getattr(owner, name, None)
        if original is None or not callable(original):
            return
        ours = maker(original)
        ours.__name__ = ours.__qualname__ = name
        ours.__doc__ = original.__doc__
        patches.append((owner, name, original, ours))

    for name in VALUES + DUNDERS:
        patch(Tensor, name, wrap_values)
    for name in IN_PLACE:
        patch(Tensor, name, lambda f: wrap_in_place(f, True))
    for name in dir(Tensor):
        if name.endswith("_") and not name.startswith("_") and name not in IN_PLACE and name not in (
                "copy_", "masked_scatter_", "requires_grad_", "share_memory_", "detach_", "rename_", "resize_", "set_", "t_",
                "transpose_", "squeeze_", "unsqueeze_", "swapaxes_", "swapdims_", "as_strided_"):
            patch(Tensor, name, lambda f: wrap_in_place(f, False))
    for name in ("to", "cuda", "copy_"):
        patch(Tensor, name, wrap_move)
    for name in ("masked_select", "masked_scatter", "masked_scatter_"):
        patch(Tensor, name, wrap_mask)
    for name in ("masked_select", "masked_scatter"):
        patch(torch, name, wrap_mask)
    for name in CHOICE:
        patch(Tensor, name, wrap_choice)
        patch(torch, name, wrap_choice)
    patch(Tensor, "__getitem__", wrap_index)
    patch(Tensor, "__setitem__", wrap_set_index)
    for name in VALUES:
        if name != "where" and hasattr(torch, name) and name not in ("cpu",):
            patch(torch, name, wrap_values)
    for name in MAKE:
        patch(torch, name, wrap_make)
    for name in NEW:
        patch(Tensor, name, wrap_any)
    for name in ("where", "cat", "concat", "concatenate", "stack", "hstack", "vstack"):
        patch(torch, name, wrap_any)
    patch(torch.nn.functional, "one_hot", wrap_values)
    patch(torch.nn.functional, "pad", wrap_values)

    def restore_sequence():
        """A class with a __getitem__ of Python's counts as a sequence for Python's C interface, and a
        tensor must not: PyTorch asks that to tell numbers from lists. The slot that says so goes."""
        def subclasses(cls):
            yield cls
            for sub in type.__subclasses__(cls):
                yield from subclasses(sub)
        as_sequence, item = 104, 24  # PyTypeObject.tp_as_sequence, PySequenceMethods.sq_item: CPython 3.8 to 3.14
        for cls in subclasses(Tensor):
            methods = ctypes.c_void_p.from_address(id(cls) + as_sequence).value
            if methods:
                ctypes.c_void_p.from_address(methods + item).value = None
        return ctypes.pythonapi.PySequence_Check(ctypes.py_object(torch.empty(0, device="cpu"))) == 0

    def switch(on):
        for owner, name, original, ours in patches:
            if on:
                setattr(owner, name, ours)
            elif name in owner.__dict__ and owner is Tensor and not hasattr(original, "__code__"):
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        restore_sequence()

    # TorchScript knows PyTorch's functions by what they are.
    def plainly(orig):
        def wrapper(*args, **kwargs):
            switch(False)
            try:
                return orig(*args, **kwargs)
            finally:
                switch(True)
        wrapper.__name__, wrapper.__doc__ = orig.__name__, orig.__doc__
        return wrapper
    torch.jit.script = plainly(torch.jit.script)
    torch.jit.trace = plainly(torch.jit.trace)
    # What `with torch.device(...)` and set_default_device place: a list that is made once, of the
    # functions as they are then, and the modes are told of PyTorch's own, not of ours.
    try:
        from torch.utils import _device
        _device._device_constructors()
    except Exception as error:
        print("peakcast capture:", error, file=sys.stderr)
    switch(True)
