"""Every kind of student has the embeddings, gradients and export that sentence-transformers gives the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from distill.settings.encoders import LoraSettings, StudentSettings
from tests.distill.model_kinds import KINDS
from tests.distill.ranks import on_ranks
from tests.distill.students import save_modernbert, save_qwen3
from tests.distill.training.test_step import QUERIES, problem, reference_loss

LORA = LoraSettings(rank=4, alpha=8)
MODE = {"contrastive_weight": 0.1, "contrastive_temperature": 0.05}
NAMES = ("bert", "modernbert", "qwen3", "Instructor", "Router", "Static", "bert with adapters", "qwen3 with adapters")


@pytest.fixture(scope="module")
def students(tiny_encoder, tmp_path_factory) -> dict[str, StudentSettings]:
    folder = tmp_path_factory.mktemp("students")
    paths = {"bert": tiny_encoder, "modernbert": save_modernbert(folder / "m"), "qwen3": save_qwen3(folder / "q")}
    paths |= {kind: KINDS[kind](folder / kind) for kind in ("Instructor", "Router", "Static")}
    two_layers = LORA.model_copy(update={"target_modules": ["q_proj", "v_proj"]})
    adapters = {"bert with adapters": LORA, "qwen3 with adapters": two_layers}
    return {
        name: StudentSettings(
            model=paths[name.partition(" ")[0]], lora=adapters.get(name), max_query_tokens=48, max_passage_tokens=48,
            dtype="float32", query_prompt="find: ",
        )
        for name in NAMES
    }  # fmt: skip


def load(settings: StudentSettings):
    """The student as the trainer loads it; the zeros of new adapters are replaced by random values."""
    import torch

    from distill.encoders.loading import load_model
    from distill.encoders.lora import add_adapters

    model = load_model(settings, "cpu")
    if settings.lora:
        add_adapters(model, settings.lora, seed=1)
        torch.manual_seed(9)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return model


def token_files(folder: Path, settings: StudentSettings, model) -> list:
    from distill.encoders.reading import Reading
    from distill.encoders.tokens import TokenFile, write_tokens

    queries, passages, _, _ = problem()
    files = []
    for name, texts, task in (("queries", queries, "query"), ("passages", passages, "document")):
        reading = Reading.of(model, task, settings)
        write_tokens(folder / name, texts, reading.token_ids)
        files.append(TokenFile(folder / name, constants=reading.constants(), is_bag=reading.is_bag))
    return files


def library_embeddings(settings: StudentSettings, model) -> list:
    """Embeddings of queries and passages, with gradients, by sentence-transformers' own tokenisation and forward."""
    queries, passages, _, _ = problem()
    embeddings = []
    for texts, task in ((queries, "query"), (passages, "document")):
        limit(model)
        features = model.preprocess(texts, prompt=model.prompts[task], task=task)
        embeddings.append(model(features, task=task)["sentence_embedding"])
    return embeddings


def limit(model) -> None:
    """Cuts texts at 48 tokens; a bag of tokens has no limit."""
    if model.max_seq_length != float("inf"):
        model.max_seq_length = 48


def step(rank: int, world_size: int, students: dict[str, StudentSettings], folder: Path) -> dict:
    """Loss and gradients of one step of each student, in several micro-batches, some of which are recomputed."""
    import torch
    import torch.distributed as dist

    from distill.activations.activations import Activations
    from distill.encoders.layout import Layout, pad_token
    from distill.encoders.module import EncoderModule
    from distill.losses.batch import LossSettings
    from distill.settings.training import TrainingSettings
    from distill.training.batches import plan_step
    from distill.training.deepspeed_engine import start_engine
    from distill.training.process_group import join_ranks
    from distill.training.step import Stepper

    join_ranks("cpu")
    _, _, lists, scores = problem()
    results = {}
    for name, settings in students.items():
        model = load(settings)
        (folder / f"{name} {rank}").mkdir()
        tokens = token_files(folder / f"{name} {rank}", settings, model)
        module = EncoderModule(model, "cpu", torch.float32)
        engine = start_engine(module, TrainingSettings(gradient_clip=1e9), world_size)
        activations, layout = Activations(engine, module, 120), Layout(pad_token(model))
        stepper = Stepper(engine, *tokens, LossSettings(**MODE), activations, layout)
        plan = plan_step(np.arange(QUERIES), lists, tokens[0].lengths, tokens[1].lengths, world_size, 64)
        result = stepper.run(stepper.prepare(plan, scores[plan.queries]))
        parameters = engine.module.model.named_parameters()
        gradients = {key: weight.grad.numpy() for key, weight in parameters if weight.grad is not None}
        results[name] = (result.loss, gradients)
    dist.barrier()
    dist.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def stepped(students, tmp_path_factory):
    return on_ranks(step, 2, students, tmp_path_factory.mktemp("stepped"))


@pytest.mark.parametrize("name", NAMES)
def test_a_micro_batch_is_encoded_as_sentence_transformers_does(name, students, tmp_path):
    import torch

    from distill.encoders.layout import Layout, pad_token
    from distill.encoders.module import EncoderModule

    model = load(students[name])
    student = EncoderModule(model, "cpu", torch.float32)
    queries, passages, _, _ = problem()
    files = token_files(tmp_path, students[name], model)
    sides = ((queries, model.encode_query), (passages, model.encode_document))
    for (texts, encode), file in zip(sides, files, strict=True):
        order = np.argsort(-file.lengths)
        with torch.no_grad():
            parts = [student(**Layout(pad_token(model)).features(file, part)) for part in np.array_split(order, 4)]
        limit(model)
        expected = encode([texts[row] for row in order], batch_size=5)
        np.testing.assert_allclose(torch.cat(parts).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_two_ranks_equals_one_process_with_the_librarys_padding(name, students, stepped):
    """The decoder's tokenizer pads on the left and the trainer on the right; the gradients must be the same."""
    _, _, lists, scores = problem()
    model = load(students[name])
    embeddings = [matrix.double() for matrix in library_embeddings(students[name], model)]
    loss = reference_loss(*embeddings, lists, scores, MODE)
    loss.backward()
    expected = {key: weight.grad.numpy() for key, weight in model.named_parameters() if weight.grad is not None}
    scale = max(np.abs(gradient).max() for gradient in expected.values())
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in key for key in trained) == ("adapters" in name)
    for rank_loss, gradients in (rank[name] for rank in stepped):
        assert rank_loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert expected.keys() <= gradients.keys() | {key for key, gradient in expected.items() if not gradient.any()}
        for key, gradient in gradients.items():
            wanted = expected.get(key, np.zeros_like(gradient))
            assert np.abs(gradient - wanted).max() <= 1e-5 * scale, key


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_student_embeds_as_the_trained_one_and_has_no_adapters(name, students, tmp_path):
    from safetensors import safe_open
    from sentence_transformers import SentenceTransformer

    from distill.encoders.encoder import Encoder
    from distill.encoders.export import save
    from distill.encoders.lora import merge_adapters

    queries, passages, _, _ = problem()
    model = load(students[name])
    encoder = Encoder(students[name], "cpu", model)
    expected = encoder.encode_queries(queries), encoder.encode_passages([""] * len(passages), passages)
    if students[name].lora:
        merge_adapters(model)
    save(model, tmp_path / "model", students[name], {})
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(loaded.encode_query(queries), expected[0], atol=2e-6)
    np.testing.assert_allclose(loaded.encode_document(passages), expected[1], atol=2e-6)
    with safe_open(next((tmp_path / "model").rglob("*.safetensors")), "pt") as weights:
        assert not [key for key in weights.keys() if "lora" in key or "base_layer" in key]  # noqa: SIM118

    short = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=8)
    cut = Encoder(students[name].model_copy(update={"lora": None}), "cpu", loaded, dimensions=8)
    np.testing.assert_allclose(
        short.encode_document(passages, normalize_embeddings=True),
        cut.encode_passages([""] * len(passages), passages), atol=2e-6,
    )  # fmt: skip


def test_new_adapters_change_no_embedding_and_an_unknown_layer_is_refused_with_those_that_exist(students):
    from distill.encoders.loading import load_model
    from distill.encoders.lora import add_adapters

    queries = problem()[0]
    plain, adapted = (load_model(students["qwen3"], "cpu") for _ in range(2))
    add_adapters(adapted, LORA, seed=0)
    np.testing.assert_allclose(adapted.encode(queries), plain.encode(queries), atol=1e-6)
    with pytest.raises(InputError, match="no linear layer called query; it has down_proj, gate_proj"):
        add_adapters(load_model(students["qwen3"], "cpu"), LoraSettings(target_modules=["query", "q_proj"]), seed=0)
