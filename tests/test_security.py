"""What a model, a workdir or a text brings along is read as data: nothing of it is run, obeyed or told on."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.schemas import QUERIES
from cluster.tables.storage import Storage
from distill.encoders.loading import load_model
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import load_cross_encoder
from launcher.input_checks import check
from launcher.recipe_file import load_recipe
from tests import traps
from tests.launcher.workdir import commit_table
from tests.pipeline import listwise, recipe_text

ROOT = Path(__file__).parents[1]
PACKAGES = ("listwise", "launcher", "cluster", "generation", "distill")

# --- code and pickles ---

RUNS_PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
EXTRACTS = {"extractall", "unpack_archive"}


def dangers(source: str) -> Iterator[str]:
    """Calls that may run what a file or a text says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.split(".")[0] in RUNS_PICKLES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        last = name.rpartition(".")[2]
        careless = (
            name == "torch.load" and given.get("weights_only") != "True",
            name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False",
            given.get("allow_pickle") == "True",
            given.get("shell") == "True",
            name in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
            last in EXTRACTS,
        )
        if any(careless):
            yield name


def test_our_own_code_reads_no_pickle_runs_no_text_and_extracts_no_archive() -> None:
    careless = """
import pickle
from joblib import load
torch.load(path)
np.load(path, allow_pickle=True)
yaml.load(text)
subprocess.run(words, shell=True)
eval(text)
archive.extractall()
"""
    assert len(list(dangers(careless))) == 8
    assert list(dangers("model.eval(); torch.load(path, weights_only=True); np.load(path, allow_pickle=False)")) == []
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 80
    found = [f"{path.relative_to(ROOT)}: {one}" for path in files for one in dangers(path.read_text())]
    assert found == []


def load_encoder(folder: Path, trust: bool = False) -> None:
    load_model(EncoderSettings(model=str(folder), trust_remote_code=trust), "cpu")


def load_student(folder: Path, trust: bool = False) -> None:
    load_model(StudentSettings(model=str(folder), pooling="mean", trust_remote_code=trust), "cpu")


def load_teacher(folder: Path, trust: bool = False) -> None:
    load_cross_encoder(TeacherSettings(kind="cross_encoder", model=str(folder), trust_remote_code=trust), "cpu")


@pytest.mark.parametrize("load", [load_encoder, load_student, load_teacher])
def test_code_in_a_model_folder_runs_only_if_the_recipe_trusts_that_model(
    load: Callable[..., None], tiny_reranker: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    folder = traps.with_code(Path(tiny_reranker), tmp_path / "model", trace)
    with pytest.raises(InputError, match="code of its own, which is not run") as refused:
        load(folder)
    assert not trace.exists()
    assert "trust_remote_code: true" in str(refused.value)
    with contextlib.suppress(InputError):  # that it runs is what matters here, not how far it comes
        load(folder, trust=True)
    assert trace.exists(), "the trap itself works"


def test_a_module_of_a_sentence_transformer_runs_only_if_it_is_trusted(tiny_encoder: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    folder = traps.with_module(Path(tiny_encoder), tmp_path / "model", trace)
    with pytest.raises(InputError, match="code of its own, which is not run"):
        load_encoder(folder)
    assert not trace.exists()
    with contextlib.suppress(Exception):  # the module does nothing of what one must do
        load_encoder(folder, trust=True)
    assert trace.exists(), "the trap itself works"


@pytest.mark.parametrize("load", [load_encoder, load_student, load_teacher])
def test_weights_in_a_pickle_are_refused_unread(load: Callable[..., None], tiny_reranker: str, tmp_path: Path) -> None:
    import torch

    trace = tmp_path / "trace"
    folder = traps.pickled(Path(tiny_reranker), tmp_path / "model", trace)
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*Expected model\.safetensors"):
        load(folder)
    assert not trace.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists(), "the trap itself works"


def test_a_pickle_is_refused_in_every_part_of_a_model_and_beside_safetensors_it_is_ignored(
    tiny_encoder: str, hundred: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    folder = traps.pickled(Path(tiny_encoder), tmp_path / "model", trace)
    (part := folder / "2_Dense").mkdir(exist_ok=True)
    for place in (folder, part):
        (place / "model.safetensors").write_bytes(b"")
    (part / "model.safetensors").rename(part / "pytorch_model.bin")
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, str(folder), tmp_path / "run"))
    with pytest.raises(InputError, match=r"student\.model: .*2_Dense/pytorch_model\.bin is a pickle"):
        check(load_recipe(str(tmp_path / "recipe.yaml")))
    (part / "pytorch_model.bin").unlink()
    check(load_recipe(str(tmp_path / "recipe.yaml")))


# --- secrets ---

MARKER = "marker-of-a-secret-0123456789"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (f"workdir=s3://AKIA:{MARKER}@bucket/run", "workdir"),
        (f"generation.base_url=https://ann:{MARKER}@host/v1", "generation.base_url"),
        (f"generation.base_url=https://host/v1?api_key={MARKER}", "generation.base_url"),
        (f"generation.engine_args={{api_key: {MARKER}}}", "generation.engine_args.api_key"),
        (f"corpus.token={MARKER}", "corpus.token"),
        (f"evaluation.dataset=https://{MARKER}@host/judged", "evaluation.dataset"),
    ],
)
def test_a_recipe_with_a_secret_is_refused_before_anything_is_written_and_does_not_show_it(
    change: str, field: str, hundred: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    with pytest.raises(InputError) as refused:
        load_recipe(str(tmp_path / "recipe.yaml"), [change, "training.epochs=many"])
    said = str(refused.value)
    assert f"`{field}` holds a secret" in said
    assert "in the environment of driver and workers" in said
    assert MARKER not in said
    assert not (tmp_path / "run").exists()


# --- words ---

NASTY = "\x1b[2J\x1b]0;x\x07[bold red]not bold[/]"


def test_what_files_of_a_run_say_is_printed_as_text(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    commit_table(storage, QUERIES, 50, {f"gone {NASTY}": 4})
    storage.put("recipe.yaml", b"name: x")
    done = listwise("status", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "gone \\x1b[2J\\x1b]0;x\\x07[bold red]not bold[/] 4" in done.stdout


def test_what_is_wrong_with_an_input_is_printed_as_text() -> None:
    done = listwise("status", f"/no/{NASTY}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "there is no folder /no/\\x1b[2J\\x1b]0;x\\x07[bold red]not bold[/];" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_unknown_words_on_the_command_line_are_printed_as_text() -> None:
    done = listwise("[bold]nonsense[/bold]")
    assert done.returncode == 2
    assert "[bold]nonsense[/bold]" in done.stderr
