# Runs inside the captured program, once PyTorch is there: what only Python knows.
def _peakcast_install(native, limit):
    import ctypes
    import sys
    import torch

    def on_card(call):
        # As torch.cuda queues its own calls for when CUDA is there. Not by _lazy_call: this runs
        # inside the initialisation, which holds its lock.
        if torch.cuda.is_initialized():
            call()
        else:
            torch.cuda._queued_calls.append((call, []))

    def mark(kind, text):
        native.peakcast_capture_mark(kind, text.encode())

    if limit:
        def set_limit():
            total = torch.cuda.get_device_properties(0).total_memory
            for card in range(torch.cuda.device_count()):
                torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), card)
        on_card(set_limit)

    def place():
        """FILE:LINE of the innermost frame that is the program's own; "" where none is."""
        import threading
        try:
            frame = sys._getframe(1)
        except ValueError:  # a thread of autograd's: what the program waits in
            frame = sys._current_frames().get(threading.main_thread().ident)
        chosen = None
        while frame is not None:
            name = frame.f_code.co_filename
            if name != "peakcast" and not name.startswith("<"):
                chosen = chosen or (name, frame.f_lineno)
                if "site-packages" not in name and "dist-packages" not in name:
                    chosen = (name, frame.f_lineno)
                    break
            frame = frame.f_back
        return "{}:{}".format(*chosen) if chosen else ""

    def out_of_memory(device, requested, total, free):
        native.peakcast_capture_out_of_memory(place().encode())
    on_card(lambda: torch._C._cuda_attach_out_of_memory_observer(out_of_memory))

    # An optimizer's step ends an iteration. A program with several optimizers, or one that
    # accumulates, steps more often or more seldom than its loop turns: it is a mark, no more.
    try:
        from torch.optim import optimizer
        state = {"first": None, "iteration": 0, "seen": set()}

        def holds(tensors, category):
            found = []
            for tensor in tensors:
                tensor = getattr(tensor, "_local_tensor", tensor)
                try:
                    if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                        found.append(tensor.untyped_storage().data_ptr())
                except RuntimeError:  # a tensor without memory of its own: it stays unnamed
                    pass
            if found:
                native.peakcast_capture_category((ctypes.c_uint64 * len(found))(*found), len(found), category)

        def before(opt, args, kwargs):
            mark(1, "step")
            parameters = [p for group in opt.param_groups for p in group["params"]]
            holds(parameters, 1)
            holds((p.grad for p in parameters if p.grad is not None), 2)

        def after(opt, args, kwargs):
            native.peakcast_capture_let_watchdogs_look()
            if id(opt) not in state["seen"]:  # its state is made by its first step
                state["seen"].add(id(opt))
                holds((v for values in opt.state.values() for v in values.values()), 3)
            if state["first"] is None:
                state["first"] = id(opt)
            if id(opt) == state["first"]:
                state["iteration"] += 1
                mark(0, "iteration {}".format(state["iteration"]))
        optimizer.register_optimizer_step_pre_hook(before)
        optimizer.register_optimizer_step_post_hook(after)
    except Exception as error:
        print("peakcast capture:", error, file=sys.stderr)

    # The program's line, for what an answer assumed.
    line = ctypes.create_string_buffer(1024)

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def site():
        line.value = place().encode()[:1000]
        return ctypes.addressof(line)
    torch._peakcast_site = site  # kept alive
    native.peakcast_capture_set_site(site)
    _peakcast_values(native)
