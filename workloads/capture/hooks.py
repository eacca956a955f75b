# Runs inside the captured program, once PyTorch is there: what only Python knows.
def _peakcast_install(native, limit):
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

    # Where the program ran out: innermost frame that is the program's own.
    def out_of_memory(device, requested, total, free):
        frame = sys._getframe(1)
        root = torch.__path__[0]
        innermost = None
        while frame is not None:
            name = frame.f_code.co_filename
            if innermost is None:
                innermost = (name, frame.f_lineno)
            if "site-packages" not in name and "dist-packages" not in name and not name.startswith("<"):
                innermost = (name, frame.f_lineno)
                break
            frame = frame.f_back
        if innermost:
            native.peakcast_capture_out_of_memory("{}:{}".format(*innermost).encode())
    on_card(lambda: torch._C._cuda_attach_out_of_memory_observer(out_of_memory))

    # An optimizer's step ends an iteration. A program with several optimizers, or one that
    # accumulates, steps more often or more seldom than its loop turns: it is a mark, no more.
    try:
        from torch.optim import optimizer
        state = {"first": None, "iteration": 0}

        def before(opt, args, kwargs):
            mark(1, "step")

        def after(opt, args, kwargs):
            native.peakcast_capture_let_watchdogs_look()
            if state["first"] is None:
                state["first"] = id(opt)
            if id(opt) == state["first"]:
                state["iteration"] += 1
                mark(0, "iteration {}".format(state["iteration"]))
        optimizer.register_optimizer_step_pre_hook(before)
        optimizer.register_optimizer_step_post_hook(after)
    except Exception as error:
        print("peakcast capture:", error, file=sys.stderr)

    # The program's line, for what an answer assumed: innermost frame that is not a library's.
    import ctypes
    line = ctypes.create_string_buffer(1024)

    @ctypes.CFUNCTYPE(ctypes.c_void_p)
    def site():
        try:
            frame = sys._getframe(1)
        except ValueError:  # a thread without Python
            frame = None
        chosen = None
        while frame is not None:
            name = frame.f_code.co_filename
            if name != "peakcast" and not name.startswith("<"):
                chosen = chosen or (name, frame.f_lineno)
                if "site-packages" not in name and "dist-packages" not in name:
                    chosen = (name, frame.f_lineno)
                    break
            frame = frame.f_back
        line.value = "{}:{}".format(*chosen).encode()[:1000] if chosen else b""
        return ctypes.addressof(line)
    torch._peakcast_site = site  # kept alive
    native.peakcast_capture_set_site(site)
    _peakcast_values(native)
