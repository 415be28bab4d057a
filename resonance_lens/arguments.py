"""The arguments of the command line: which there are, and what is said of those that there are not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from resonance_lens import __version__
from resonance_lens.errors import ResonanceLensError, nearest, unknown
from resonance_lens.registry import EVIDENCE

EXIT_CODES = """exit codes:
  0    all went well
  1    the model, or the adapter that reads it, failed its check
  2    the input cannot be used: one sentence on standard error says why
  130  interrupted: what was measured is kept, and a sentence says how to resume
"""


RUN_FILE = """a run file holds the same words, paths relative to it, and parameters as tables:

  model = "smollm2-135m"
  prompts = "prompts.jsonl"
  analyses = ["phase_coherence", "head_sync"]
  out = "results"

  [parameters.phase_coherence]
  circle = "half"

further keys: seed, batch_tokens, prepend_bos, baselines, device, dtype, per_category, check
"""

COMPARING = """differences are second minus first, with 95 % intervals; q is over all heads or layers at once:

  resonance-lens compare before after                          the same prompts are paired
  resonance-lens compare my-run --category code --against prose   prose minus code, within one run
  resonance-lens compare before after --category code          only the prompts of one category
"""


PATCHING = """targets:
  heads                  every head, at what it mixes (z); layers: what attention and MLP of each layer write
  resid_pre, q, ...      every layer, or every head, of a site
  attention_filter:20    the first 20 places that an analysis of the run names
  L5H3,mlp_out:L5        places by name; parts may be mixed, with commas between them

  resonance-lens patch my-run --task induction --targets attention_filter:20 --operation kernel --out effects
  resonance-lens patch smollm2-135m --task names --operation patch --prescreen 20
  resonance-lens patch my-run --task induction --targets layers --operation remove_band \\
      --set remove_band.band=low,high --allow-look-ahead
"""


CARRYING = """where it is held:
  heads                  every head, attention and MLP from --layer on, one at a time (default)
  layers                 the attention and MLP of each layer; none: only what is held in all layers at once
  L5H3,mlp_out:L5        places by name

  resonance-lens carriers smollm2-135m --prompts prose.jsonl --layer 15 --plan
  resonance-lens carriers smollm2-135m --prompts prose.jsonl --layer 15 --baselines random_weights --out waves
"""


PROBING = """what is read, from where, in which band, by what is listed by `resonance-lens probe --list`:

  resonance-lens probe smollm2-135m --prompts corpus --label word_class --plan
  resonance-lens probe smollm2-135m --prompts corpus --label word_class --layers 0,10,20,29 --out words
  resonance-lens probe smollm2-135m --prompts mine.jsonl --labels-file spans.csv --bands all,low,0.1-0.25 \\
      --probes linear,spectral_filter --baselines random_weights --out spans
"""


DISCOVERING = """directions are learned from half of the documents, and tested on the other half:

  resonance-lens discover smollm2-135m --prompts corpus --layers 5,15,25 --plan
  resonance-lens discover smollm2-135m --prompts corpus --layers 5,15,25 --out components
  resonance-lens discover smollm2-135m --prompts mine.jsonl --site z --bands mid,0.1-0.25 --window 128 \\
      --baselines shuffled_tokens,random_weights --out heads
"""


class UsageError(ResonanceLensError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of everything else here: one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` with argparse's message."""
        raise UsageError(f"{message[0].upper()}{message[1:]}; see `{self.prog} --help`.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; an option or command that does not exist is met with the nearest one.

    Raises
    ------
    UsageError
        If they cannot be understood.
    """
    parser, commands = make_parser()
    word = next((word for word in argv if not word.startswith("-")), "")
    if not word and not {"-h", "--help", "--version"} & set(argv):
        raise UsageError(f"Name a command: {', '.join(commands)}; see `resonance-lens --help`.")
    if word and word not in commands:
        raise UsageError(unknown("command", word, commands))
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        options = [option for action in commands[word]._actions for option in action.option_strings]
        kind = "option" if rest[0].startswith("-") else "argument"
        raise UsageError(f"{word} takes no {kind} {rest[0]!r}.{nearest(rest[0].partition('=')[0], options)}")
    return arguments


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and those of its commands by name."""
    parser = Parser(
        prog="resonance-lens",
        description="A signal-processing instrument for transformer internals.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"resonance-lens {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parsers: dict[str, Parser] = {}

    def add(name: str, says: str, **kwargs: Any) -> Parser:
        sub = parsers[name] = commands.add_parser(name, help=says, description=f"{says}.", **kwargs)
        sub.set_defaults(command=name)
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    levels = "".join(f"  {level:<10} {meaning}\n" for level, meaning in EVIDENCE.items())
    sub = add("list", "List the analyses", epilog=f"levels of evidence:\n{levels}")
    sub.add_argument(
        "--broken",
        action="store_true",
        help="import the analyses of other packages, and list those that cannot be used, with the reason",
    )

    add("models", "List the models that can be loaded by name")

    sub = add("run", "Measure prompts with several analyses in one pass", epilog=RUN_FILE)
    sub.add_argument("model", metavar="MODEL", nargs="?", help="name or folder; see `resonance-lens models`")
    sub.add_argument("--file", metavar="RUN.toml", help="take what is not given here from a run file")
    sub.add_argument("--prompts", metavar="FILE", help="a .jsonl or .txt file, or demo for the shipped set")
    sub.add_argument("--per-category", type=int, metavar="N", help="only N demo prompts of each category")
    sub.add_argument("--analyses", metavar="A,B", help="names separated by commas, or all (default)")
    sub.add_argument(
        "--set", action="append", metavar="ANALYSIS.PARAMETER=VALUE", help="may be given several times"
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the results; a run that was stopped resumes if it is given again with the same "
        "folder (default: a new folder ./MODEL-YYYYMMDD-HHMMSS)",
    )
    _add_pass_options(sub, "text")
    sub.add_argument(
        "--baselines",
        metavar="A,B",
        help="random_weights (a twin of the model whose weights are drawn anew), shuffled_tokens, both as "
        "A,B, all (default) or none: each takes as many passes as the run itself, and the twin as much "
        "memory as the model's weights",
    )
    sub.add_argument(
        "--no-check",
        dest="check",
        action="store_const",
        const=False,
        help="skip the proof that the sites are read as they should be",
    )
    sub.add_argument(
        "--plan",
        action="store_true",
        help="say passes, hooks, memory, files and what each claim could find, and measure nothing",
    )
    _add_model_options(sub)

    sub = add("report", "Write one self-contained HTML page of a run")
    sub.add_argument("folder", metavar="RUN_DIR", help="folder of a run")
    sub.add_argument("--out", metavar="FILE.html", help="where to write it (default: RUN_DIR/report.html)")
    sub.add_argument("--verbose", action="store_true", help="show what libraries say")

    sub = add("compare", "Say what differs between two runs or categories, and how surely", epilog=COMPARING)
    sub.add_argument("a", metavar="RUN_A", help="folder of the first run")
    sub.add_argument(
        "b", metavar="RUN_B", nargs="?", help="folder of the second run (default: RUN_A, with --against)"
    )
    sub.add_argument("--category", metavar="X", help="only prompts of this category")
    sub.add_argument("--against", metavar="Y", help="the category of the second side (default: X)")
    sub.add_argument("--out", metavar="FILE.csv", help="write every difference with its interval, p and q")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling (default 0)")

    _add_patch(
        add("patch", "Change places inside a model and say what that does to its answers", epilog=PATCHING)
    )

    _add_carriers(
        add("carriers", "Drive a model with waves and say which heads and layers carry them", epilog=CARRYING)
    )

    _add_probe(
        add(
            "probe",
            "Learn to read a label from activations, by band and layer, and what that is worth",
            epilog=PROBING,
        )
    )

    _add_discover(
        add("discover", "Look for components that come back in a band along tokens", epilog=DISCOVERING)
    )

    sub = add("check-model", "Prove that the sites of a model are read as they should be")
    sub.add_argument("model", metavar="MODEL", help="name or folder")
    _add_model_options(sub)
    return parser, parsers


def _add_patch(sub: Parser) -> None:
    sub.add_argument(
        "source", metavar="RUN_OR_MODEL", nargs="?", help="folder of a run, or name or folder of a model"
    )
    sub.add_argument("--list", action="store_true", help="list operations, ready tasks and metrics")
    sub.add_argument("--task", metavar="NAME", help="a ready task: pairs of prompts that the model solves")
    sub.add_argument(
        "--pairs",
        metavar="FILE",
        help="a .jsonl file, on each line an object with clean, corrupted, right and wrong",
    )
    sub.add_argument("--n-pairs", type=int, metavar="N", help="how many pairs of a ready task (default 32)")
    sub.add_argument("--targets", metavar="WHICH", default="heads", help="what is changed (default heads)")
    sub.add_argument(
        "--operation", action="append", metavar="NAME", help="what is done there (default patch); repeatable"
    )
    sub.add_argument(
        "--set",
        action="append",
        metavar="OPERATION.PARAMETER=VALUE",
        help="may be given several times, also as TASK.OPTION=VALUE; values with commas between them make an "
        "operation of each",
    )
    sub.add_argument("--metric", metavar="NAME", default="logit_difference", help="default logit_difference")
    sub.add_argument(
        "--direction",
        metavar="NAME",
        help="denoise: run the corrupted prompt, take values from the clean one; noise: the reverse "
        "(default: denoise; the clean prompt is run where nothing is taken from another)",
    )
    sub.add_argument(
        "--controls",
        metavar="A,B",
        help="others, placebo, complement, all (default) or none: placebo and complement take as many passes "
        "as the operation itself",
    )
    sub.add_argument(
        "--prescreen",
        type=int,
        metavar="K",
        help="rank all targets by gradient, and patch only the first K and as many others at random",
    )
    sub.add_argument(
        "--allow-look-ahead",
        action="store_true",
        help="allow operations that let a causal model see later tokens",
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the result; a sweep that was stopped resumes if it is given again with the same "
        "folder (default: a new folder ./MODEL-patch-YYYYMMDD-HHMMSS)",
    )
    _add_pass_options(sub)
    sub.add_argument("--plan", action="store_true", help="say passes, memory and files, and measure nothing")
    sub.add_argument(
        "--model", metavar="MODEL", help="the model, where that of the run cannot be loaded by its name"
    )
    _add_model_options(sub)


def _add_carriers(sub: Parser) -> None:
    sub.add_argument("model", metavar="MODEL", help="name or folder; see `resonance-lens models`")
    sub.add_argument("--prompts", metavar="FILE", help="a .jsonl or .txt file, or demo for the shipped set")
    sub.add_argument("--layer", type=int, metavar="N", help="layer before which waves enter")
    sub.add_argument("--heard", type=int, metavar="N", help="layer that is heard (default: the last one)")
    sub.add_argument("--targets", metavar="WHICH", default="heads", help="what is held (default heads)")
    sub.add_argument(
        "--interventions",
        metavar="A,B",
        help="what is held in all layers at once: attention_held, values_held, mlp_held, heads_held, "
        "patterns_alone, heads_kernels, kernel_chain, uniform_chain (default: all that the model can make)",
    )
    sub.add_argument(
        "--ablate", metavar="PLACES", help="places that are ablated together, driven and undriven: L5H3,L7H1"
    )
    sub.add_argument("--ablation", metavar="NAME", help="zero_ablate (default) or mean_ablate")
    sub.add_argument(
        "--kernels",
        metavar="RUN_DIR",
        help="folder of a run with attention_filter on other prompts (default: the other half of these)",
    )
    sub.add_argument("--epsilon", type=float, metavar="X", help="amplitude in median norms (default 0.03)")
    sub.add_argument("--directions", type=int, metavar="N", help="random directions to drive in (default 2)")
    sub.add_argument("--period", type=int, metavar="N", help="tokens of the longest wave (default: as fits)")
    sub.add_argument(
        "--baselines",
        metavar="NAME",
        help="random_weights: a twin of the model whose weights are drawn anew, which costs as much again; "
        "or none (default)",
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the result; a call that was stopped resumes if it is given again with the same "
        "folder (default: a new folder ./MODEL-carriers-YYYYMMDD-HHMMSS)",
    )
    _add_pass_options(sub, "text")
    sub.add_argument("--plan", action="store_true", help="say passes, disk and files, and measure nothing")
    _add_model_options(sub)


def _add_probe(sub: Parser) -> None:
    sub.add_argument("model", metavar="MODEL", nargs="?", help="name or folder; see `resonance-lens models`")
    sub.add_argument("--list", action="store_true", help="list labels, bands and probes")
    sub.add_argument(
        "--prompts",
        metavar="FILE",
        help="documents: a .jsonl or .txt file, corpus for the shipped one (200,000 tokens), or demo",
    )
    sub.add_argument("--label", metavar="NAME", help="what is read (default word_class)")
    sub.add_argument(
        "--labels-file",
        metavar="FILE",
        help="labels of your own instead: a CSV file, or the folder of a dataset, with the columns document, "
        "start, end (characters) and label or value",
    )
    sub.add_argument("--site", metavar="NAME", help="what it is read from (default resid_post)")
    sub.add_argument("--layers", metavar="A,B-C", help="numbers and ranges, or all (default)")
    sub.add_argument("--bands", metavar="A,B", help="bands along tokens (default all and Prism's five)")
    sub.add_argument("--method", metavar="NAME", help="what makes bands: dct (default), wavelet or causal")
    sub.add_argument("--probes", metavar="A,B", help="what reads it (default linear)")
    sub.add_argument(
        "--window", type=int, metavar="N", help="tokens that the model sees at a time (default 256)"
    )
    sub.add_argument("--n-shuffles", type=int, metavar="N", help="how often labels are shuffled (default 3)")
    sub.add_argument(
        "--baselines",
        metavar="NAME",
        help="random_weights: a twin of the model whose weights are drawn anew, which costs as much again; "
        "or none (default); shuffled labels, a control task and random features are always there",
    )
    sub.add_argument(
        "--causal",
        action="store_true",
        help="take what linear probes read out of the model, and measure what it loses; given with the "
        "folder of a finished result it adds that",
    )
    sub.add_argument(
        "--split",
        metavar="SHARES",
        help="of documents for train, validation and test (default 0.6,0.2,0.2), or a JSON file with their "
        "ids by part",
    )
    sub.add_argument(
        "--features",
        metavar="DIR",
        help="folder for the activations, which stay there for other labels (default: removed at the end)",
    )
    sub.add_argument(
        "--features-dtype", metavar="NAME", help="how they are stored: float16 (default) or float32"
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the result and the learned probes; a call that was stopped resumes if it is given "
        "again with the same folder (default: a new folder ./MODEL-probe-YYYYMMDD-HHMMSS)",
    )
    _add_pass_options(sub, "window")
    sub.add_argument(
        "--plan",
        action="store_true",
        help="say documents, tokens, passes, places, disk, memory and files, and measure nothing",
    )
    _add_model_options(sub)


def _add_discover(sub: Parser) -> None:
    sub.add_argument("model", metavar="MODEL", help="name or folder; see `resonance-lens models`")
    sub.add_argument(
        "--prompts",
        metavar="FILE",
        help="documents, at least 12: a .jsonl or .txt file, or corpus for the shipped one (200,000 tokens)",
    )
    sub.add_argument("--site", metavar="NAME", help="where (default resid_post); over heads: z")
    sub.add_argument("--layers", metavar="A,B-C", help="numbers and ranges, or all (default)")
    sub.add_argument("--bands", metavar="A,B", help="bands along tokens (default Prism's but for low)")
    sub.add_argument("--n-components", type=int, metavar="N", help="of each layer and band (default 3)")
    sub.add_argument(
        "--n-ablations", type=int, metavar="N", help="how many that are found are taken out (default 4)"
    )
    sub.add_argument("--n-moments", type=int, metavar="N", help="strongest moments to keep (default 10)")
    sub.add_argument("--scaling", metavar="NAME", help="of each feature: features (default) or none")
    sub.add_argument(
        "--method", metavar="NAME", help="what makes the band that is taken out: causal (default) or dct"
    )
    sub.add_argument("--held-out", type=float, metavar="X", help="share of documents to test on (default .5)")
    sub.add_argument(
        "--window", type=int, metavar="N", help="tokens that the model sees at a time (default 256)"
    )
    sub.add_argument(
        "--baselines",
        metavar="A,B",
        help="shuffled_tokens (default), random_weights (a twin of the model whose weights are drawn anew, "
        "with components of its own), or none",
    )
    sub.add_argument(
        "--features-dtype", metavar="NAME", help="how activations are stored: float16 (default) or float32"
    )
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the result; a call that was stopped resumes if it is given again with the same "
        "folder (default: a new folder ./MODEL-discover-YYYYMMDD-HHMMSS)",
    )
    _add_pass_options(sub, "window")
    sub.add_argument(
        "--plan", action="store_true", help="say documents, passes, disk and memory, and measure nothing"
    )
    _add_model_options(sub)


def _add_pass_options(sub: Parser, begins: str | None = None) -> None:
    """Add what passes depend on; ``begins`` is what may get a beginning-of-sequence token."""
    sub.add_argument("--seed", type=int, metavar="N", help="of everything random (default 0)")
    sub.add_argument(
        "--batch-tokens",
        type=int,
        metavar="N",
        help="tokens of one pass, padding included: lower it if memory runs out (default 2048)",
    )
    if begins is not None:
        sub.add_argument(
            "--prepend-bos",
            action=argparse.BooleanOptionalAction,
            help=f"put a beginning-of-sequence token before each {begins} (default: as the model is used to)",
        )


def _add_model_options(sub: Parser) -> None:
    sub.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps")
    sub.add_argument("--dtype", metavar="NAME", help="float32 (default), bfloat16 or float16")
    sub.add_argument("--quiet", action="store_true", help="no progress on standard error")
    sub.add_argument("--verbose", action="store_true", help="show what libraries say")
