from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.errors import InputError
from launcher.input_checks import check
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe, shipped_recipes

GOOD = """\
name: small
workdir: runs/small
corpus:
  path: corpus.jsonl
teachers:
  bm25: {kind: bm25, weight: 0.5}
student:
  model: all-MiniLM-L6-v2
"""


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def refusal(source: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(source, overrides)
    return str(caught.value)


def test_a_language_model_as_teacher_has_its_text_and_its_tokens_in_the_recipe(tmp_path: Path) -> None:
    teacher = (
        '  judge: {kind: causal, model: some/model, chat: true, true_token: "Yes", false_token: "No",\n'
        '          template: "Passage: {passage}\\nDoes it answer {query}?"}\n'
    )
    recipe = load_recipe(write(tmp_path, GOOD.replace("teachers:\n", f"teachers:\n{teacher}")))
    judge = recipe.teachers["judge"]
    assert (judge.true_token, judge.false_token) == ("Yes", "No")
    assert judge.template == "Passage: {passage}\nDoes it answer {query}?"
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe
    assert "holds a secret" in refusal(write(tmp_path, GOOD), ("teachers.bm25.api_token=abcdefgh",))


@pytest.mark.parametrize("name", ["pydocs", "cadet", "small-gpu", "laptop"])
def test_every_shipped_recipe_is_valid_as_it_is(name: str) -> None:
    assert load_recipe(name).name == name
    assert name in shipped_recipes()


def test_every_line_of_the_demo_recipe_is_explained() -> None:
    path = Path(__file__).parents[2] / "launcher" / "recipes" / "pydocs.yaml"
    lines = path.read_text().splitlines()
    silent = [
        line
        for number, line in enumerate(lines)
        if line.strip() and "#" not in line and not line.rstrip().endswith(":") and "#" not in lines[number - 1]
    ]
    assert silent == []


def test_a_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe("cadet")
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_key(tmp_path: Path) -> None:
    source = write(tmp_path, GOOD.replace("path: corpus.jsonl", "pth: corpus.jsonl"))
    message = refusal(source)
    assert f"{source}, line 4: unknown key `corpus.pth`; did you mean `corpus.path`?" in message
    assert "missing" not in message, "the misspelt key is the missing one: one mistake, one message"


def test_a_misspelt_section_and_a_misspelt_teacher_field_are_found(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD.replace("weight", "weigth") + "trainig: {epochs: 2}\n"))
    assert "line 6: unknown key `teachers.bm25.weigth`; did you mean `teachers.bm25.weight`?" in message
    assert "line 9: unknown key `trainig`; did you mean `training`?" in message


def test_a_key_of_another_section_is_sent_home(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD.replace("path: corpus.jsonl", "path: c\n  temperature: 0.5")))
    assert "`corpus.temperature`; did you mean `generation.temperature`?" in message


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("path: corpus.jsonl", "path: c\n  max_sources: many\n  seeed: 1") + "lists: {length: 1}\n"
    message = refusal(write(tmp_path, text))
    assert message.startswith(f"the recipe {tmp_path / 'recipe.yaml'} has 3 problems:")
    found = [message.index(part) for part in ("line 5: `corpus.max_sources` is 'many'", "line 6", "line 11")]
    assert found == sorted(found)


def test_a_missing_section_and_a_missing_field_are_named(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "name: x\nworkdir: y\ncorpus:\nteachers:\n  a: {kind: cross_encoder}\n"))
    assert "`student` is missing" in message
    assert "line 3: `corpus.path` is missing (BEIR folder" in message
    assert "line 5: `teachers.a`: a cross_encoder teacher needs `model`" in message


def test_set_overrides_nested_fields_with_yaml_values(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(tmp_path, GOOD),
        ["teachers.bm25.weight=2", "training.learning_rate=1e-4", "generation.query_types=[title, claim]",
         "evaluation.dataset=null", "corpus.path=pydocs://numpy,scipy", "teachers.fast.kind=bi_encoder"],
    )  # fmt: skip
    assert recipe.teachers["bm25"].weight == 2
    assert recipe.training.learning_rate == 1e-4
    assert recipe.generation.query_types == ["title", "claim"]
    assert recipe.evaluation.dataset is None
    assert recipe.corpus.path == "pydocs://numpy,scipy"
    assert recipe.teachers["fast"].kind == "bi_encoder"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", "--set training.epoch=3: unknown key `training.epoch`; did you mean `training.epochs`?"),
        ("training.epochs=none", "--set training.epochs=none: `training.epochs` is 'none'"),
        ("training.epochs", "--set training.epochs: expected section.field=value"),
        ("name.first=x", "--set name.first=x: `name` holds a value, not a section"),
        ("lists.length=[", "`lists.length` is '['"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, GOOD), (override,))


def test_sections_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD), ("training.list_length=30", "retrieval.depth=5"))
    assert "training.list_length is 30, but lists hold only lists.length = 20" in message
    assert "lists of 20 passages need 21 candidates, but retrieval.depth is 5" in message


def test_contested_lists_need_a_teacher_that_is_the_students_base(tmp_path: Path) -> None:
    contested = "lists.choice=contested"
    message = refusal(write(tmp_path, GOOD), (contested,))
    assert "lists.choice is 'contested', which needs the student's own scores" in message
    added = ["teachers.base.kind=bi_encoder", "teachers.base.weight=1e-6"]
    assert all(f"--set {change}" in message for change in added)
    assert load_recipe(write(tmp_path, GOOD), [contested, *added]).lists.choice == "contested"
    for model, batch in (("all-MiniLM-L6-v2", "512"), ("another", "16384")):
        named = [*added, f"teachers.base.encoder.model={model}", f"teachers.base.encoder.batch_tokens={batch}"]
        if model == "another":
            assert "no teacher is the student's base" in refusal(write(tmp_path, GOOD), (contested, *named))
        else:
            load_recipe(write(tmp_path, GOOD), [contested, *named])


def test_judged_passages_cannot_be_sources_and_no_candidates(tmp_path: Path) -> None:
    both = ("retrieval.leave_out_judged=true", "corpus.exclude_judged_sources=false")
    assert "could never find their source; change one of them" in refusal(write(tmp_path, GOOD), both)
    assert load_recipe(write(tmp_path, GOOD), both[:1]).retrieval.leave_out_judged


def test_a_teacher_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    assert "'../x' becomes part of a path" in refusal(write(tmp_path, GOOD.replace("bm25:", "../x:")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "line 1, column"),
        ("- a list\n", "expected sections"),
        ("", "expected sections"),
        (GOOD + "name: again\n", "line 9: `name` stands here a second time"),
        ("name: \tx: y\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, text))


def test_a_recipe_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"name: caf\xe9\n")
    assert "not UTF-8 text (byte 9)" in refusal(str(tmp_path / "recipe.yaml"))


def test_a_missing_recipe_names_the_nearest_one(tmp_path: Path) -> None:
    assert "Did you mean pydocs?" in refusal("pydoc")
    source = write(tmp_path, GOOD)
    assert f"Did you mean {source}?" in refusal(source.replace("recipe.yaml", "recipes.yaml"))


def test_a_dense_retriever_without_encoder_uses_the_student(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), ["student.max_passage_tokens=99"])
    assert recipe.dense_retrievers()["student"] == recipe.student_encoder()
    assert recipe.student_encoder().max_passage_tokens == 99


def test_a_model_folder_that_does_not_exist_is_found_before_anything_starts(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), ["student.model=./no/such/model"])
    with pytest.raises(InputError, match=r"student\.model: model './no/such/model'"):
        check(recipe)


def test_the_dumped_recipe_holds_every_default() -> None:
    recipe = load_recipe("laptop")
    assert yaml.safe_load(recipe.to_yaml())["training"]["gradient_clip"] == 1.0
    assert set(yaml.safe_load(recipe.to_yaml())) == set(Recipe.model_fields)


MIXED = (
    GOOD
    + """generation:
- {engine: vllm, model: some/llm, share: 0.8}
- engine: openai
  model: big
  base_url: http://host/v1
  share: 0.2
"""
)


def test_a_list_of_sections_is_a_mixture_and_set_reaches_each_by_its_number(tmp_path: Path) -> None:
    source = write(tmp_path, MIXED)
    recipe = load_recipe(source, ["generation.1.model=bigger", "generation.0.pool.workers=3"])
    assert [own.model for own in recipe.sections.values()] == ["some/llm", "bigger"]
    assert [section.path for section in recipe.sections] == ["queries", "more_queries/1"]
    assert [own.pool.workers for own in recipe.sections.values()] == [3, None]
    assert recipe.models()["generation.0.model"] == ("some/llm", None)
    assert yaml.safe_load(recipe.to_yaml())["generation"][1]["model"] == "bigger"
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


def test_a_list_of_one_section_is_that_section(tmp_path: Path) -> None:
    plain = load_recipe(write(tmp_path, GOOD + "generation: {samples: 2}\n"))
    listed = load_recipe(write(tmp_path, GOOD + "generation:\n- samples: 2\n"))
    assert listed == plain
    assert listed.to_yaml() == plain.to_yaml()
    assert list(listed.sections) == list(plain.sections)
    assert listed.extractive is plain.extractive is True


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (MIXED.replace("share: 0.2", "shrae: 0.2"), (), "line 14: unknown key `generation.1.shrae`; did you mean "
         "`generation.1.share`?"),
        (MIXED.replace("share: 0.2", "share: 2"), (), "line 14: `generation.1.share` is 2: input should be less"),
        (MIXED.replace("  base_url: http://host/v1\n", ""), (), "line 11: `generation.1`: engine 'openai' needs"),
        (MIXED, ("generation.2.model=x",), "`generation` is a list of 2 sections; name one of them by its number, from "
         "generation.0 to generation.1"),
        (MIXED, ("generation.model=x",), "`generation` is a list of 2 sections"),
        (MIXED, ("generation.1.modle=x",), "unknown key `generation.1.modle`; did you mean `generation.1.model`?"),
        (MIXED, ("generation.1.near_duplicates=0.9",), "near_duplicates differ"),
        (GOOD + "generation: []\n", (), "`generation`: the list is empty"),
        (GOOD + "generation: 3\n", (), "line 9: `generation`"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_section_of_a_list_is_told_with_its_place(
    tmp_path: Path, text: str, overrides: tuple[str, ...], said: str
) -> None:
    assert said in refusal(write(tmp_path, text), overrides)


def test_what_a_section_of_a_list_names_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    text = MIXED.replace("some/llm", "./no/such.gguf")
    with pytest.raises(InputError, match=r"generation\.0\.model: there is no folder or GGUF file"):
        check(load_recipe(write(tmp_path, text)))
    text = MIXED.replace("base_url:", "types_folder: ./none\n  base_url:")
    with pytest.raises(InputError, match=r"generation\.1\.types_folder: there is no folder"):
        check(load_recipe(write(tmp_path, text)))


def test_where_one_section_extracts_its_lists_alone_leave_the_source_out(tmp_path: Path) -> None:
    text = MIXED.replace("engine: vllm, model: some/llm, share: 0.8", "engine: extractive")
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.extractive == frozenset({0})
    assert "lists of 20 passages need 21 candidates" in refusal(write(tmp_path, text), ("retrieval.depth=20",))
    assert load_recipe(write(tmp_path, MIXED), ["retrieval.depth=20"]).extractive is False


JUDGED = GOOD + "generation:\n  judge:\n    model: some/llm\n    threshold: 0.4\n"


def test_a_judge_is_a_part_of_its_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, JUDGED))
    assert recipe.judge and recipe.judge.threshold == 0.4
    assert recipe.models()["generation.judge.model"] == ("some/llm", None)
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe
    assert load_recipe(write(tmp_path, GOOD)).judge is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (JUDGED.replace("threshold", "treshold"), "line 12: unknown key `generation.judge.treshold`; did you mean "
         "`generation.judge.threshold`?"),
        (JUDGED.replace("0.4", "4"), "line 12: `generation.judge.threshold"),
        (JUDGED.replace("    model: some/llm\n", ""), "line 10: `generation.judge.model` is missing"),
        (GOOD + "generation:\n- {judge: {model: a}}\n- {judge: {model: b}}\n",
         "generation: the judges of generation.0 and generation.1 differ"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_judge_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(write(tmp_path, text))


def test_what_a_judge_names_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generation\.judge\.model: there is no folder or GGUF file './none'"):
        check(load_recipe(write(tmp_path, JUDGED.replace("some/llm", "./none"))))
    (tmp_path / "rubric.yaml").write_text("instruction: Look.\ngrades: [1, 2]\ncriterias: {}\n")
    text = JUDGED + f"    rubric: {tmp_path}/rubric.yaml\n"
    with pytest.raises(InputError, match="line 3: unknown key `criterias`; did you mean `criteria`"):
        check(load_recipe(write(tmp_path, text)))


def test_bm25_of_retrievers_and_teachers_reads_the_language_of_the_corpus(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD)).in_language("ja")
    assert recipe.retrieval.retrievers["bm25"].tokenizer == "ngrams"
    assert recipe.teachers["bm25"].tokenizer is None  # reads as the retriever does
    dense = "retrieval:\n  retrievers: {student: {kind: dense}}\n"
    assert load_recipe(write(tmp_path, GOOD + dense)).in_language("ja").teachers["bm25"].tokenizer == "ngrams"
    german = "retrieval:\n  retrievers: {words: {kind: bm25, language: german}}\n"
    named = load_recipe(write(tmp_path, GOOD + german))
    assert named.in_language("ja").retrieval == named.retrieval


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("query: ", "query: "),
        ("passage ", "passage "),
        ("Represent this: for search # not a comment", "Represent this: for search # not a comment"),
        ("# heading", "# heading"),
        ('"query: "', "query: "),
        ("''", ""),
        ("[INST] ", "[INST] "),
        ("{query}: ", "{query}: "),
        ("12", "12"),
        ("no", "no"),
        ("null", None),
    ],
)
def test_a_prompt_on_the_command_line_is_taken_as_it_stands(written: str, meant: str | None, tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), [f"student.query_prompt={written}", "student.max_query_tokens=48"])
    assert recipe.student.query_prompt == meant
    assert recipe.student.max_query_tokens == 48
