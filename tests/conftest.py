"""What the tests share: tiny models of every architecture with a tiny tokenizer, a private cache, the real model."""

import gc
import io
import json
import os
import signal
import warnings
from contextlib import ExitStack
from functools import cache as memo
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE


def shapes(function):
    """Beartype for the annotations that name an array's shape; a checker of types reads the others (``make lint``)."""
    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint for name, hint in hints if "jaxtyping." in repr(hint)}
    return beartype(function, conf=BeartypeConf(is_pep484_tower=True))


# Before the library is imported: functions of a module with shapes then check those of their arguments and results.
LIB = Path(__file__).parents[1] / "lib"
SHAPED = [path for path in LIB.rglob("*.py") if "jaxtyping" in path.read_text(encoding="utf-8")]
jaxtyping.install_import_hook([".".join(p.relative_to(LIB).with_suffix("").parts) for p in SHAPED], "conftest.shapes")

import chromium  # noqa: E402
from superposition.errors import UserError  # noqa: E402
from superposition.figures.style import Plot  # noqa: E402
from superposition.lm import models, passes, products  # noqa: E402

SENTENCES = [
    "The capital of France is Paris, and the capital of Spain is Madrid.",
    "Mount Everest lies in Asia; the Danube flows through Vienna and Budapest.",
    "Tokyo is a city in Japan, and people there speak Japanese.",
    "A violin is an instrument, football is a sport, and Windows was developed by Microsoft.",
    "In the year 1984 the author of the book moved from London to Rome and worked as a painter.",
    "Keys overlap where the model has few directions and many facts to keep in them.",
    "She sells sea shells on the sea shore; he wonders why the wind blows over the northern hills.",
]

USERS = os.environ.get("SUPERPOSITION_CACHE")
os.environ["TQDM_DISABLE"] = "1"  # what a command says is compared
VOCABULARY = 384
CONTEXT = 96


class OfflineTab:
    """A tab of a browser without a network, which notes what goes wrong in it."""

    def __init__(self, browser, *, height: int, **options):
        self.context = browser.new_context(offline=True, viewport={"width": 1280, "height": height}, **options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._note)

    def _failed(self, request):
        if request.failure != "net::ERR_ABORTED":  # what a page left asks for no longer
            self.errors.append(f"failed: {request.url}")

    def _note(self, request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.outside.append(request.url)


def pytest_collection_modifyitems(items):
    """The site's file, which takes longest, begins first; processes take files in this order."""
    items.sort(key=lambda item: item.path.name != "test_site.py")


def pytest_xdist_auto_num_workers():
    """One process more than cores: the one that looks at pages waits for Chromium half of its time."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config):
    config.addinivalue_line("markers", "real_model: reads SmolLM2's weights (a few seconds a test)")
    config.addinivalue_line("markers", "slow: processes, the rehearsal of the GPU run, the single page: `make slow`")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@memo
def _trained(bos: bool):
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<s>"]
    bpe.train_from_iterator(
        SENTENCES * 3,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))])
        bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>" if bos else None, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def tokenizer(bos: bool = False):
    """A byte-level BPE tokenizer; with ``bos``, one that puts ``<s>`` before every text."""
    return _trained(bos)


COMMON = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GPT = {"n_embd": 24, "n_inner": 40, "n_layer": 3, "n_head": 2, "n_positions": CONTEXT}
#: Settings of a tiny model by transformers' name of the architecture.
ARCHITECTURES = {
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neox": COMMON,
    "opt": COMMON | {"ffn_dim": 40, "word_embed_proj_dim": 24},
    "llama": COMMON | {"num_key_value_heads": 1},
    "mistral": COMMON | {"num_key_value_heads": 1, "sliding_window": 8},
    "qwen2": COMMON | {"num_key_value_heads": 1},
    "qwen3": COMMON | {"num_key_value_heads": 1, "head_dim": 12},
    "gemma3_text": COMMON | {"num_key_value_heads": 1, "head_dim": 12, "sliding_window": 8},
    "phi": COMMON,
}


def build(architecture: str, seed: int = 0, **changes):
    """A tiny random causal model, its weights large enough that keys differ, its biases not zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    settings |= ARCHITECTURES.get(architecture, COMMON) | changes
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **settings), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") and architecture != "gemma3_text" else 0))
            else:
                parameter.copy_(noise * (1.0 if parameter.shape[0] in (VOCABULARY, CONTEXT, CONTEXT + 2) else 0.25))
    return model.eval().requires_grad_(False)


def tiny(architecture: str = "llama", *, bos: bool = False, seed: int = 0, **changes) -> models.LanguageModel:
    """A tiny random :class:`superposition.lm.models.LanguageModel`."""
    model = build(architecture, seed, **changes)
    products.use(model)  # as after loading
    loaded = models.LanguageModel(model, tokenizer(bos), models.find_layers(model), architecture)
    passes.check(loaded)
    return loaded


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Keep what is imported out of the garbage collector, which accelerate calls before every pass."""
    gc.freeze()


@pytest.fixture
def unchecked(monkeypatch):
    """Annotations unchecked: for what the library itself says to, or makes of, arguments that they rule out."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def browser():
    """A Chromium; where there is none the test is left out, except where ``CI`` is set."""
    pytest.importorskip("playwright.sync_api")
    with ExitStack() as stack:
        try:
            launched = stack.enter_context(chromium.browser())
        except UserError as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
        yield launched


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SUPERPOSITION_CACHE", str(folder))
    return folder


@pytest.fixture
def user_cache(cache, monkeypatch):
    """The user's own cache again, for a test that must not convert the real model once more."""
    if USERS is None:
        monkeypatch.delenv("SUPERPOSITION_CACHE")
    else:
        monkeypatch.setenv("SUPERPOSITION_CACHE", USERS)


@pytest.fixture(scope="session")
def smollm2():
    """The default model, from the user's own cache, so that its conversion is not repeated."""
    return models.load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def english(tmp_path_factory):
    """A text file of plain English, some 12,000 tokens long: Python's own help texts."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))[:60_000]
    path = tmp_path_factory.mktemp("english") / "english.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    """A JSONL file of ten different texts that the tiny tokenizer cuts into some 900 tokens."""
    rng = np.random.default_rng(5)
    words = " ".join(SENTENCES).split()
    path = tmp_path / "corpus.jsonl"
    texts = [" ".join(rng.choice(words, size=int(size))) for size in rng.integers(10, 60, size=10)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny Llama as ``save_pretrained`` writes it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def drawn():
    """Renders a figure and returns it: no warning of the layout or of a missing glyph, and its legends inside."""

    def render(figure):
        assert isinstance(figure, Plot)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(io.BytesIO(), format="png", dpi=60)
        figure.draw_without_rendering()
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, "the legend is cut off"
        return figure

    return render


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for a subprocess, with changes."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}
