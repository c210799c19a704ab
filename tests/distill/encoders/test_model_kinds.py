"""Every kind of model is encoded, trained and exported as by its library, or is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from distill.encoders.encoder import Encoder
from distill.encoders.export import save
from distill.encoders.layout import Layout, pad_token
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.encoders.reading import Reading
from distill.encoders.tokens import TokenFile, write_tokens
from distill.settings.encoders import EncoderSettings, StudentSettings
from tests.distill.model_kinds import KINDS, texts, without_pooling

LENGTHS = {"max_query_tokens": 32, "max_passage_tokens": 100, "dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    return {name: make(tmp_path_factory.mktemp("kind")) for name, make in KINDS.items()}


def settings(kind: str, folders: dict[str, str], of: type = EncoderSettings, **more):
    return of(model=folders[kind], trust_remote_code=kind == "custom code", **{**LENGTHS, **more})


def similarities(folder: str, queries: list[str], passages: list[str], trust: bool) -> np.ndarray:
    """(Q, P) by the library alone."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router, Transformer

    model = SentenceTransformer(folder, device="cpu", trust_remote_code=trust)
    vectors = []
    for encode, limit, side in ((model.encode_query, 32, queries), (model.encode_document, 100, passages)):
        first = [tower[0] for tower in model[0].sub_modules.values()] if isinstance(model[0], Router) else [model[0]]
        for reader in first:
            if isinstance(reader, Transformer):
                reader.max_seq_length = limit
        vectors.append(encode(side))
    return model.similarity(*vectors).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_similarities_of_the_library(kind, folders):
    queries, passages = texts()
    expected = similarities(folders[kind], queries, passages, kind == "custom code")
    encoder = Encoder(settings(kind, folders), "cpu")
    found = encoder.encode_queries(queries) @ encoder.encode_passages([""] * len(passages), passages).T
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_what_the_exported_model_gives(kind, folders, tmp_path: Path):
    queries, passages = texts()
    student = settings(kind, folders, StudentSettings)
    model = load_model(student, "cpu")
    module = EncoderModule(model, "cpu", torch.float32)
    files = []
    for task, side in (("query", queries), ("document", passages)):
        reading = Reading.of(model, task, student)
        write_tokens(tmp_path / task, side, reading.token_ids)
        files.append(TokenFile(tmp_path / task, constants=reading.constants(), is_bag=reading.is_bag))
    layout = Layout(pad_token(model))

    def embeddings():
        return [module(**layout.features(file, np.arange(len(file)))) for file in files]

    before = embeddings()[0] @ embeddings()[1].T
    torch.nn.functional.cross_entropy(before, torch.arange(len(queries)) % len(passages)).backward()
    with torch.no_grad():
        for weight in (one for one in module.parameters() if one.grad is not None):
            weight.sub_(0.05 * weight.grad / weight.grad.norm().clamp_min(1e-6))
        trained = (embeddings()[0] @ embeddings()[1].T).numpy()
    assert np.abs(trained - before.detach().numpy()).max() > 1e-3, "the step changes the model"
    save(model, tmp_path / "model", student, {})
    exported = similarities(str(tmp_path / "model"), queries, passages, kind == "custom code")
    np.testing.assert_allclose(exported, trained, atol=2e-5 * np.abs(trained).max())


def test_prompts_of_the_base_stay_in_the_export(folders, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    student = settings("default prompt", folders, StudentSettings, query_prompt="mine: ")
    save(load_model(student, "cpu"), tmp_path / "model", student, {})
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert loaded.prompts == {"query": "mine: ", "document": "about a place: ", "other": "? "}
    assert loaded.default_prompt_name == "other"


@pytest.mark.parametrize(
    ("kind", "normalize", "similarity"), [("mean", False, "dot"), ("inner product", True, "cosine")]
)
def test_a_recipe_may_train_another_similarity_and_the_export_declares_it(
    kind, normalize, similarity, folders, tmp_path
):
    from sentence_transformers import SentenceTransformer

    student = settings(kind, folders, StudentSettings, normalize=normalize, max_query_tokens=100)
    model = load_model(student, "cpu")
    lengths = np.linalg.norm(Encoder(student, "cpu", model).encode_queries(texts()[0]), axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize
    save(model, tmp_path / "model", student, {})
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert loaded.similarity_fn_name == similarity
    np.testing.assert_allclose(np.linalg.norm(loaded.encode_query(texts()[0]), axis=1), lengths, rtol=1e-5)


def broken(name: str, folder: Path) -> Path:  # noqa: PLR0912
    """A folder that is no encoder, or no whole one."""
    import json

    from safetensors.torch import load_file, save_file

    from tests.distill.model_kinds import pooled
    from tests.models import save_reranker

    if name == "empty":
        return folder
    if name == "cross-encoder":
        from sentence_transformers import CrossEncoder

        CrossEncoder(str(save_reranker(folder / "bert")), device="cpu").save(str(folder / "model"))
        return folder / "model"
    path = Path(pooled("mean")(folder))
    (weights,) = path.rglob("*.safetensors")
    if name == "other names":
        save_file({f"tower.{key}": value for key, value in load_file(weights).items()}, weights, {"format": "pt"})
    elif name == "half of the weights":
        save_file({key: value for key, value in load_file(weights).items() if "layer.1" not in key}, weights)
    elif name == "other shapes":
        save_file({key: value.repeat_interleave(2, 0) for key, value in load_file(weights).items()}, weights)
    elif name == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif name == "no config.json":
        next(file for file in path.rglob("config.json") if "hidden_size" in file.read_text()).unlink()
    elif name == "broken config.json":
        next(file for file in path.rglob("config.json") if "hidden_size" in file.read_text()).write_text("{")
    elif name == "no tokenizer":
        for file in [*path.rglob("tokenizer*"), *path.rglob("vocab*"), *path.rglob("special_tokens*")]:
            file.unlink()
    elif name in ("sparse", "ColBERT", "ColBERT's architecture", "Manhattan"):
        saved = path / "config_sentence_transformers.json"
        change = {
            "sparse": {"model_type": "SparseEncoder"},
            "ColBERT": {"model_type": "MultiVectorEncoder", "similarity_fn_name": "MaxSim"},
            "Manhattan": {"similarity_fn_name": "manhattan"},
        }
        if name in change:
            saved.write_text(json.dumps(json.loads(saved.read_text()) | change[name]))
        else:
            inner = next(file for file in path.rglob("config.json") if "hidden_size" in file.read_text())
            inner.write_text(json.dumps(json.loads(inner.read_text()) | {"architectures": ["HF_ColBERT"]}))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "cannot be loaded"),
        ("no config.json", "cannot be loaded"),
        ("broken config.json", "config.json is not JSON: Expecting property name"),
        ("no tokenizer", "its tokenizer gives all texts the same tokens"),
        ("cut weights", "cannot be loaded"),
        ("other shapes", "has weights of another shape than its config.json says"),
        ("other names", "lacks weights: its files hold nothing for embeddings."),
        ("half of the weights", "lacks weights: its files hold nothing for encoder.layer.1"),
        ("cross-encoder", "is a cross-encoder: it scores pairs"),
        ("sparse", "is a sparse encoder"),
        ("ColBERT", "is a late-interaction model"),
        ("ColBERT's architecture", "is a late-interaction model"),
        ("Manhattan", "compares embeddings by their manhattan distance"),
    ],
)
def test_a_folder_that_is_no_whole_encoder_is_refused_with_a_reason(name, reason, tmp_path: Path):
    folder = broken(name, tmp_path)
    with pytest.raises(InputError, match=f"model '{folder}'") as refused:
        load_model(EncoderSettings(model=str(folder)), "cpu")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unused_weight_may_be_missing(tmp_path: Path):
    """Encoders are often saved without the pooler, which takes no part in their embeddings."""
    from safetensors.torch import load_file, save_file

    path = Path(KINDS["mean"](tmp_path))
    (weights,) = path.rglob("*.safetensors")
    save_file({key: value for key, value in load_file(weights).items() if "pooler" not in key}, weights)
    assert len(Encoder(EncoderSettings(model=str(path), dtype="float32"), "cpu").encode_queries(["a"])) == 1


def test_modules_without_pooling_get_the_mean_and_a_warning(tmp_path: Path, caplog):
    expected = KINDS["mean"](tmp_path / "with")
    path = without_pooling(expected, tmp_path / "without")
    vectors = [
        Encoder(EncoderSettings(model=model, dtype="float32"), "cpu").encode_queries(texts()[0])
        for model in (path, expected)
    ]
    np.testing.assert_allclose(*vectors, atol=1e-6)
    assert "says nothing of pooling" in caplog.text


def test_adapters_are_merged_into_their_base(tmp_path: Path):
    """A folder of peft holds the adapter alone and names its base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer

    base = KINDS["plain transformer"](tmp_path)
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModel.from_pretrained(base), LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    queries, passages = texts()
    model = load_model(StudentSettings(model=str(tmp_path / "adapter"), **LENGTHS), "cpu")
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert all(weight.requires_grad for weight in model.parameters())
    encoder = Encoder(EncoderSettings(model=str(tmp_path / "adapter"), **LENGTHS), "cpu")
    found = encoder.encode_queries(queries) @ encoder.encode_passages([""] * len(passages), passages).T
    np.testing.assert_allclose(found, similarities(str(tmp_path / "adapter"), queries, passages, False), atol=1e-5)
    plain = Encoder(EncoderSettings(model=base, **LENGTHS), "cpu")
    assert np.abs(found - plain.encode_queries(queries) @ plain.encode_passages([""] * 5, passages).T).max() > 1e-3


@pytest.mark.parametrize(("save_as", "limit"), [("mean", 128), ("roberta", 128), ("last token", None)])
def test_texts_are_cut_at_the_positions_that_a_model_has(save_as, limit, tmp_path: Path):
    """RoBERTa counts from the row behind its padding token's, so a table of 130 rows has 128 positions, or fewer."""
    from distill.encoders.positions import position_limit
    from tests.distill.students import save_roberta

    folder = save_roberta(tmp_path) if save_as == "roberta" else KINDS[save_as](tmp_path)
    encoder = Encoder(EncoderSettings(model=folder, dtype="float32", max_query_tokens=1000), "cpu")
    found = position_limit(encoder.model)
    if save_as == "roberta":
        limit = 130 - encoder.model.tokenizer.pad_token_id - 1
    assert found == limit
    assert np.isfinite(encoder.encode_queries([" ".join(texts()[1]) * 20])).all()


def test_weights_that_one_of_two_towers_lacks_are_found(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    path = Path(KINDS["Router"](tmp_path))
    weights = next(file for file in path.rglob("*.safetensors") if "query" in str(file.parent))
    save_file({key: value for key, value in load_file(weights).items() if "layer.1" not in key}, weights)
    with pytest.raises(InputError, match=r"lacks weights: its files hold nothing for encoder\.layer\.1"):
        load_model(EncoderSettings(model=str(path)), "cpu")
