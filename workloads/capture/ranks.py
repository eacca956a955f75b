# Runs inside a captured rank whose partners exist only in name: nobody else will ever come to the
# store, so it answers as equal partners would, and nothing waits.
def _peakcast_ranks():
    import importlib.abc
    import importlib.util
    import os
    import re
    import sys

    target = "torch.distributed.distributed_c10d"

    def patch(c10d):
        from torch._C import _distributed_c10d as native
        my_rank = int(os.environ.get("RANK", 0))
        my_world = int(os.environ.get("WORLD_SIZE", 1))

        class Partners(native.Store):
            """Every other rank did what this one did, at the same time."""

            def __init__(self, *args, **kwargs):
                super().__init__()
                self.values = {}
                self.counts = {}

            def set(self, key, value):
                self.values[key] = value.encode() if isinstance(value, str) else bytes(value)

            def equal(self, key):
                """What a partner set: under this key with its number for ours."""
                for found in re.finditer(r"\d+", key):
                    ours = key[:found.start()] + str(my_rank) + key[found.end():]
                    if ours in self.values:
                        return self.values[ours]
                return None

            def get(self, key):
                value = self.values.get(key)
                if value is None:
                    value = self.equal(key)
                return bytes(128) if value is None else value

            def add(self, key, amount):
                self.counts[key] = self.counts.get(key, 0) + amount * my_world
                self.values[key] = str(self.counts[key]).encode()
                return self.counts[key]

            def compare_set(self, key, expected, desired):
                if key not in self.values or self.values[key] == expected.encode():
                    self.set(key, desired)
                return self.values[key]

            def check(self, keys):
                return all(key in self.values for key in keys)

            def wait(self, keys, timeout=None):
                pass

            def delete_key(self, key):
                return self.values.pop(key, None) is not None

            def num_keys(self):
                return len(self.values)

            def set_timeout(self, timeout):
                pass

            def has_extended_api(self):
                return False

            def clone(self):
                return self

        store = Partners()

        def rendezvous(url, rank=-1, world_size=-1, **kwargs):
            yield store, rank if rank >= 0 else my_rank, world_size if world_size > 0 else my_world
        c10d.rendezvous = rendezvous
        for module in (c10d, native, sys.modules.get("torch.distributed")):
            for name in ("TCPStore", "FileStore"):
                if module is not None and hasattr(module, name):
                    setattr(module, name, Partners)

        fake = getattr(native, "FakeProcessGroup", None)
        if fake is not None and hasattr(c10d, "ProcessGroupGloo"):
            fake._set_sequence_number_for_group = lambda self: None
            fake._get_sequence_number_for_group = lambda self: 0

            class Kind(type):
                def __instancecheck__(cls, thing):
                    return isinstance(thing, fake)

            class Gloo(metaclass=Kind):
                def __new__(cls, _store, rank, size, *args, **kwargs):
                    make = getattr(fake, "_create_internal", None)
                    if make is None:
                        return fake(rank, size)
                    try:
                        return make(rank, size)
                    except TypeError:  # releases that ask for options
                        return make(rank, size, fake.Options())
            c10d.ProcessGroupGloo = Gloo

        def broadcast_object_list(object_list, *args, **kwargs):
            return None

        def scatter_object_list(output, given=None, *args, **kwargs):
            output[0] = given[min(my_rank, len(given) - 1)] if given else None

        def monitored_barrier(*args, **kwargs):
            return None
        for function in (broadcast_object_list, scatter_object_list, monitored_barrier):
            setattr(c10d, function.__name__, function)

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target_module=None):
            if name != target:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                patch(module)
            spec.loader.exec_module = exec_module
            return spec

    if target in sys.modules:
        patch(sys.modules[target])
    else:
        sys.meta_path.insert(0, Finder())


_peakcast_ranks()
del _peakcast_ranks
