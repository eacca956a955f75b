#!/usr/bin/env python3
"""What the commands print is what `peakcast schema COMMAND` says, name for name.

    schema_test.py PEAKCAST DATA_FOLDER [CASES_FOLDER]

Runs every command in many ways. Each JSON must validate, each CSV must have the columns of "csvColumns",
each echoed input must be a flag of --help; an undocumented name fails. The other way round each documented
name must occur in some output, unless its schema says under "notTested" why it cannot here; what is marked
"needs": "PyTorch" must with PEAKCAST_TORCH_PYTHON. Exits 77 (skipped) without Python's jsonschema.
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import jsonschema
except ImportError:
    print("no jsonschema for this Python (Debian: python3-jsonschema): skipped")
    sys.exit(77)

PEAKCAST = os.path.abspath(sys.argv[1])
DATA = os.path.abspath(sys.argv[2])
CASES = sys.argv[3] if len(sys.argv) > 3 and os.path.isdir(sys.argv[3]) else ""
SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "sim", "app", "schema")
MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "capture_models.py")
TORCH = os.environ.get("PEAKCAST_TORCH_PYTHON", "")
# These answer with a file or a shell's words, or are about this one.
WITHOUT = {"schema", "trace", "trace convert", "trace generate", "completion"}
# Units of names that end so; other numbers say their unit, too.
UNITS = {"_bytes": "bytes", "_ns": "ns", "_percent": "percent", "_ppm": "ppm"}

failures = []


def fail(what):
    if what not in failures:
        failures.append(what)


def run(*words):
    done = subprocess.run([PEAKCAST, *words], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode not in (0, 1) and words[0] != "sweep":
        fail(f"{' '.join(words)}: exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


class Schema:
    """A command's schema as the program prints it, and which of its names have been seen."""

    seen = set()  # of all commands: a shared name need not occur in each

    def __init__(self, command):
        self.command = command
        self.document = json.loads(run("schema", *command.split()))
        jsonschema.Draft202012Validator.check_schema(self.document)
        self.validator = jsonschema.Draft202012Validator(self.document)
        self.columns = {}  # tuple of names: whether some CSV had them

    def at(self, reference):
        """The part that a $ref names, and its place: one place for what is shared."""
        shared = "definitions.json#/$defs/"
        if reference.startswith(shared):
            name = reference[len(shared):]
            return self.document["$defs"]["definitions"]["$defs"][name], shared + name
        name = reference[len("#/$defs/"):]
        return self.document["$defs"][name], f"{self.command}#/$defs/{name}"

    def holds(self, condition, value):
        return jsonschema.Draft202012Validator(condition).is_valid(value)

    def walk(self, value, part=None, place=None):
        """Marks the names that `value` has."""
        part, place = (self.document, self.command + "#") if part is None else (part, place)
        if "$ref" in part:
            self.walk(value, *self.at(part["$ref"]))
        if "if" in part:
            branch = "then" if self.holds(part["if"], value) else "else"
            self.walk(value, part[branch], f"{place}/{branch}")
        if isinstance(value, dict):
            for name, below in part.get("properties", {}).items():
                if name in value:
                    Schema.seen.add(f"{place}/{name}")
                    self.walk(value[name], below, f"{place}/{name}")
        elif isinstance(value, list):
            for item in value:
                self.walk(item, part.get("items", {}), f"{place}/[]")

    def names(self, part=None, place=None, needs="", why="", visited=None, closed=False):
        """(place, name, its schema, what it needs, why it is not tested) of every documented name."""
        visited = set() if visited is None else visited
        part, place = (self.document, self.command + "#") if part is None else (part, place)
        if place in visited:
            return
        visited.add(place)
        needs, why = part.get("needs", needs), part.get("notTested", why)
        if "csvColumns" in part:
            self.columns.setdefault(tuple(part["csvColumns"]), needs)
        closed = closed or part.get("additionalProperties", True) is not True or part.get("unevaluatedProperties") is False
        if "$ref" in part:  # what closes an object closes the part that it is built on
            yield from self.names(*self.at(part["$ref"]), needs, why, visited, closed)
        for branch in ("then", "else"):
            if branch in part:
                yield from self.names(part[branch], f"{place}/{branch}", needs, why, visited)
        if "items" in part:
            yield from self.names(part["items"], f"{place}/[]", needs, why, visited)
        for name, below in part.get("properties", {}).items():
            yield f"{place}/{name}", name, below, below.get("needs", needs), below.get("notTested", why)
            yield from self.names(below, f"{place}/{name}", needs, why, visited)
        if part.get("type") in ("object", ["object", "null"]) and not closed:
            if not place.endswith("/inputs") and not place.endswith("/point"):
                fail(f"{place}: an object that lets undocumented names through (\"additionalProperties\": false)")

    def described(self, part):
        """With what its $ref says where it says nothing itself."""
        while "$ref" in part:
            part = {**self.at(part["$ref"])[0], **{key: value for key, value in part.items() if key != "$ref"}}
        return part


def check_documented(schema):
    """Each name is described, with its unit."""
    for place, name, part, _, _ in schema.names():
        part = schema.described(part)
        if not part.get("description"):
            fail(f"{place}: no description")
        types = part.get("type")
        if {"integer", "number"} & set(types if isinstance(types, list) else [types]):
            if not part.get("unit"):
                fail(f"{place}: no unit")
            for ending, unit in UNITS.items():
                if name.endswith(ending) and part.get("unit") != unit:
                    fail(f"{place}: the unit of a name that ends in {ending} is {unit}, not {part.get('unit')}")


def inputs_of(schema):
    """The names under which a command's flags and words are echoed, and those that its schema adds."""
    told = json.loads(run(*schema.command.split(), "--help", "--format", "json"))
    names = {flag["name"].replace("-", "_") for flag in told["flags"]} | {word["name"].lower() for word in told["words"]}
    added = {name for place, name, *_ in schema.names() if place.endswith(f"/inputs/{name}")}
    return names | {f"{name}_bytes" for name in names} | added


def check_json(schema, words, answer, text):
    errors = sorted(schema.validator.iter_errors(answer), key=lambda error: len(error.absolute_path))
    for error in errors[:3]:
        error = jsonschema.exceptions.best_match([error])
        at = "/".join(str(step) for step in error.absolute_path)
        fail(f"{schema.command} ({text}): at '{at}': {error.message[:300]} (sim/app/schema/{schema.command.replace(' ', '-')}.json "
             "or definitions.json documents every name)")
    schema.walk(answer)
    for name in set(answer.get("inputs", {})) - schema.inputs:
        fail(f"{schema.command}: the input '{name}' is no flag of its --help")


def columns_fit(columns, header):
    """"<flag>" stands for any number of columns."""
    if columns and columns[0] == "<flag>":
        return tuple(header[-(len(columns) - 1):]) == columns[1:]
    return tuple(header) == columns


def check_csv(schema, text, output):
    header = output.split("\n", 1)[0].split(",")
    for columns in schema.columns:
        if columns_fit(columns, header):
            schema.with_csv.add(columns)
            return
    fail(f"{schema.command} ({text}): the columns {header} are not \"csvColumns\" of its schema")


def ask(schema, *flags, csv=True):
    """One run of the schema's command, as JSON and as CSV."""
    words = [*schema.command.split(), *flags]
    text = " ".join(os.path.basename(word) if os.path.isabs(word) else word for word in words)
    dashes = words.index("--") if "--" in words else len(words)
    def output(form):
        return run(*words[:dashes], "--format", form, *words[dashes:])
    printed = output("json")
    try:
        lines = printed.splitlines() if schema.command == "sweep" else [printed]
        for line in lines:
            check_json(schema, words, json.loads(line), text)
    except json.JSONDecodeError:
        fail(f"{text}: no JSON")
    if csv:
        check_csv(schema, text, output("csv"))


def data(name):
    return os.path.join(DATA, name)


MESSAGE = ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39.56 GiB of which 1.06 GiB is free. "
           "Process 12 has 38.50 GiB memory in use. 30.00 GiB allowed; Of the allocated memory 35.10 GiB is allocated by PyTorch, "
           "with 24.00 MiB allocated in private pools (e.g., CUDA Graphs), and 2.42 GiB is reserved by PyTorch but unallocated.")


def ask_described(schemas, scratch):
    small = ["--model", "bert-tiny", "--batch", "4", "--seq", "128"]
    predict = schemas["predict"]
    ask(predict, *small)
    ask(predict, *small, "--margin", "99%", "--gpu", "a100-40g", csv=False)  # tight, with advice
    ask(predict, *small[:2], "--batch", "64", "--seq", "128", "--capacity", "1800MiB", csv=False)  # out of memory, with advice
    ask(predict, *small, "--loader-workers", "2", "--pin-memory", csv=False)
    ask(predict, *small, "--parallel", "fsdp2", "--world", "4", "--precision", "bf16", csv=False)
    ask(predict, "--model", "bert-tiny", "--lora", "8", "--batches", "1x64,2x128", csv=False)
    ask(predict, *small, "--gpu", "h100-80g,t4-16g")
    fit = schemas["fit"]
    ask(fit, *small[:2], "--seq", "128", "--capacity", "1800MiB", "--max", "64", "--step", "8")
    ask(fit, *small[:2], "--seq", "128", "--capacity", "2GiB", "--vary", "world", "--parallel", "fsdp1", "--max", "3", csv=False)
    ask(fit, *small[:2], "--seq", "128", "--vary", "batch", "--max", "2", "--gpu", "h100-80g,t4-16g")
    ask(schemas["plan"], *small[:2], "--seq", "128", "--global-batch", "8", "--world", "1..2", "--checkpoint", "none")
    grid = os.path.join(scratch, "grid.json")
    with open(grid, "w", encoding="utf-8") as file:
        json.dump({"run": {"model": "bert-tiny", "iterations": 2, "capacity": "1800MiB"}, "grid": {"seq": [64, 4096], "batch": [1, 256]}}, file)
    ask(schemas["sweep"], grid)
    ask(schemas["compare"], *small, "--policy", "pytorch,gmlake", "--repeat", "2", "--pack-steps", "1000", csv=False)
    ask(schemas["explain"], *small)


def ask_traces(schemas, scratch):
    replay, compare, explain = schemas["replay"], schemas["compare"], schemas["explain"]
    fuzz = data("fuzz_060.csv.zst")
    ask(replay, fuzz, "--verify")
    ask(replay, fuzz, "--verify", "--addresses", "modelled", "--alloc-conf", "expandable_segments:True", csv=False)  # parts
    ask(replay, data("bert_large_fp32_b8_s128.csv.zst"), "--repeat", "2", "--policy", "gmlake", csv=False)
    ask(replay, data("pressure_fsdp1_llama_7b_w8_cap25.csv.zst"), csv=False)
    ask(compare, fuzz, "--pack-steps", "1000", "--policy", "pytorch,cuda-malloc,swap")
    ask(explain, data("fuzz_006.csv.zst"))
    ask(explain, data("bert_base_b4_s64_stacks.pickle.zst"), csv=False)
    ask(explain, MESSAGE)
    info, validate, diff = schemas["trace info"], schemas["trace validate"], schemas["trace diff"]
    ask(info, fuzz)
    ask(info, data("bert_base_b4_s64_stacks.pickle.zst"), csv=False)
    ask(validate, fuzz)
    generated, other = os.path.join(scratch, "a.pkt"), os.path.join(scratch, "b.pkt")
    for path, batch in ((generated, "2"), (other, "3")):
        run("trace", "generate", path, "--model", "bert-tiny", "--batch", batch, "--seq", "64", "--iterations", "2")
    ask(info, generated, csv=False)
    ask(diff, generated, other, "--by-phase")
    odd = os.path.join(scratch, "odd.csv")
    with open(odd, "w", encoding="utf-8") as file:  # a block that lies in no segment
        file.write("segment_alloc,7f0000000000,2097152,0\n")
        for action in ("alloc", "free_requested", "free_completed"):
            file.write(f"{action},7f0000200000,512,0\n")
    ask(validate, odd, csv=False)
    for name in sorted(os.listdir(CASES)) if CASES else []:
        if name.endswith((".csv", ".csv.zst", ".pickle")):
            path = os.path.join(CASES, name)
            if subprocess.run([PEAKCAST, "trace", "info", path], capture_output=True, check=False).returncode == 0:
                for schema in (info, validate, replay, *([explain] if name.endswith(".pickle") else [])):
                    ask(schema, path, csv=False)


def ask_catalogues(schemas):
    ask(schemas["models"])
    ask(schemas["models"], "gpt2", csv=False)
    ask(schemas["gpus"])
    ask(schemas["gpus"], "h100-80g", csv=False)
    ask(schemas["policies"])
    ask(schemas["policies"], "pytorch", csv=False)


def ask_programs(schemas, scratch):
    """With PyTorch: programs on the emulated card."""
    name = subprocess.run([TORCH, MODELS, "--list"], capture_output=True, text=True, check=True).stdout.split()[0]
    ask(schemas["capture"], "--", TORCH, MODELS, name)
    ask(schemas["capture"], "--capacity", "700MiB", "--", TORCH, MODELS, name, csv=False)
    asks = os.path.join(scratch, "asks.py")
    with open(asks, "w", encoding="utf-8") as file:  # reads a value from the card
        file.write("import sys, torch\nx = torch.ones(int(sys.argv[1]) << 20, device='cuda')\nprint(x.sum().item())\n")
    ask(schemas["capture"], "--", TORCH, asks, "1", csv=False)
    ask(schemas["fit"], "--capacity", "1GiB", "--max", "256", "--step", "32", "--vary", "n", "--", TORCH, asks, "{}")
    if subprocess.run([TORCH, "-c", "import transformers"], capture_output=True, check=False).returncode == 0:
        described = ["--model", "bert-tiny", "--batch", "2", "--seq", "64", "--engine", "captured", "--python", TORCH]
        for command in ("predict", "compare", "explain"):
            ask(schemas[command], *described, csv=False)
        ask(schemas["fit"], *described, "--max", "2", csv=False)


def commands_of(*group):
    """The names in the table of --help: the first block of indented lines."""
    table = run(*group, "--help").split("\n\n  ", 1)[1].split("\n\n")[0]
    return [line.split()[0] for line in ("  " + table).splitlines() if not line.startswith("   ")]


def main():
    schemas = {}
    for command in (set(commands_of()) | {f"trace {name}" for name in commands_of("trace")}) - WITHOUT:
        schemas[command] = Schema(command)
        schemas[command].inputs = inputs_of(schemas[command])
        schemas[command].with_csv = set()
        check_documented(schemas[command])
    files = {name[:-len(".json")] for name in os.listdir(SOURCES) if name.endswith(".json")}
    for name in files - {command.replace(" ", "-") for command in schemas} - {"definitions"}:
        fail(f"sim/app/schema/{name}.json is of no command")
    with tempfile.TemporaryDirectory() as scratch:
        ask_described(schemas, scratch)
        ask_traces(schemas, scratch)
        if TORCH:
            ask_programs(schemas, scratch)
    ask_catalogues(schemas)
    for schema in schemas.values():
        for place, _, _, needs, why in schema.names():
            if place not in Schema.seen and not why and (not needs or TORCH):
                fail(f"{place} is documented and occurs in no output (\"notTested\" may say why)")
        for columns, needs in schema.columns.items():
            if columns not in schema.with_csv and (not needs or TORCH):
                fail(f"{schema.command}: no CSV was seen with the columns {', '.join(columns)}")
    for what in failures:
        print("FAILED", what)
    if not failures:
        print(f"{len(Schema.seen)} names of {len(schemas)} commands{'' if TORCH else ', none of programs with PyTorch (PEAKCAST_TORCH_PYTHON)'}")
    return 1 if failures else 0


sys.exit(main())
