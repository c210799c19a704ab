"""The recipe: everything a run does, as sections of settings that agree with each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, WrapValidator, field_validator, model_validator

from cluster.disclosure import is_secret_name, secret_in_url
from cluster.machines.hub import ModelName
from cluster.settings import ClusterSettings, Settings
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.ensemble import EnsembleSettings
from distill.settings.evaluation import EvaluationSettings
from distill.settings.lists import ListSettings
from distill.settings.retrieval import RetrievalSettings
from distill.settings.teachers import TeacherSettings, as_cross_encoder
from distill.settings.training import TrainingSettings
from generation.judging.settings import JudgeSettings
from generation.judging.stage import one_judge
from generation.mixture import Section, one_threshold, sections_of, sources_differ
from generation.settings import CorpusSettings, GenerationSettings
from launcher.list_checks import check_choice

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def _one_or_several(value: Any, _: Any) -> Any:
    """A section `generation`, or a list of them; a mistake keeps its place, such as generation.1.engine."""
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("the list is empty; expected a section for each engine, or one section without a list")
        sections = _SECTIONS.validate_python(value)
        return sections if len(sections) > 1 else sections[0]
    return value if isinstance(value, GenerationSettings) else GenerationSettings.model_validate(value)


_SECTIONS = TypeAdapter(tuple[GenerationSettings, ...])
Generation = Annotated[GenerationSettings | tuple[GenerationSettings, ...], WrapValidator(_one_or_several)]


class Recipe(Settings):
    """All sections of a recipe. Paths are relative to the directory in which `listwise` is called."""

    name: str = Field(min_length=1, description="name of the run in its report")
    workdir: str = Field(
        min_length=1,
        description="folder for everything the run makes; s3://, gs:// or az:// only for the stages before training",
    )
    corpus: CorpusSettings
    generation: Generation = GenerationSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    teachers: dict[str, TeacherSettings] = Field(min_length=1)
    ensemble: EnsembleSettings = EnsembleSettings()
    lists: ListSettings = ListSettings()
    student: StudentSettings
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()

    @field_validator("teachers")
    @classmethod
    def _teacher_names_are_paths(cls, teachers: dict[str, TeacherSettings]) -> dict[str, TeacherSettings]:
        _check_names(teachers)
        return teachers

    @field_validator("retrieval")
    @classmethod
    def _retriever_names_are_paths(cls, retrieval: RetrievalSettings) -> RetrievalSettings:
        _check_names(retrieval.retrievers)
        return retrieval

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, data: Any) -> Any:
        """Refuses a recipe with a secret, because recipes are written into workdirs and reports.

        It runs before all other validation, because other messages show the value of a field.
        """
        if secrets := [f"`{field}` holds a secret ({what})" for field, what in _secrets(data, "")]:
            raise ValueError(
                f"{'; '.join(secrets)}. A recipe is copied into the workdir and into reports. Remove it, and set it "
                "in the environment of driver and workers, such as OPENAI_API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY"
            )
        return data

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        problems = []
        for of_all in (one_threshold, one_judge):
            try:
                of_all(self.sections)
            except ValueError as error:
                problems.append(f"generation: {error}")
        problems += sources_differ(self.sections)
        if self.training.list_length > self.lists.length:
            problems.append(
                f"training.list_length is {self.training.list_length}, but lists hold only lists.length = "
                f"{self.lists.length} passages; lower the first or raise the second"
            )
        chunk = self.corpus.chunk_tokens
        if chunk is not None and chunk > self.student.max_passage_tokens:
            problems.append(
                f"corpus.chunk_tokens is {chunk}, but the student reads only student.max_passage_tokens = "
                f"{self.student.max_passage_tokens} of them; lower the first or raise the second"
            )
        if self.evaluation.cut and chunk is None:
            problems.append(
                "evaluation.cut cuts judged passages to corpus.chunk_tokens, which is empty; set it, for example "
                f"--set corpus.chunk_tokens={self.student.max_passage_tokens}"
            )
        # A list without the source passage needs one more candidate.
        leaves_out = self.lists.leave_out_source
        needed = self.lists.length + int(bool(self.extractive) if leaves_out is None else leaves_out)
        if needed > self.retrieval.depth:
            problems.append(
                f"lists of {self.lists.length} passages need {needed} candidates, but retrieval.depth is "
                f"{self.retrieval.depth}; raise it or lower lists.length"
            )
        if lacks := check_choice(self.lists, self.teachers, self.student_encoder()):
            problems.append(lacks)
        if len(self.given_teachers()) == 0:
            problems.append(
                "every teacher is of kind adapted, and such a teacher learns from the scores of others; add one, such "
                "as --set teachers.bm25.kind=bm25"
            )
        for name, teacher in self.teachers.items():
            if teacher.adapt and (teacher.adapt.list_length > self.retrieval.depth):
                problems.append(
                    f"teachers.{name}.adapt.list_length is {teacher.adapt.list_length}, but retrieval.depth is "
                    f"{self.retrieval.depth}; lower the first or raise the second"
                )
        if self.retrieval.leave_out_judged and not self.corpus.exclude_judged_sources:
            problems.append(
                "retrieval.leave_out_judged is true, and corpus.exclude_judged_sources is false, so that queries on "
                "judged passages could never find their source; change one of them"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def sections(self) -> dict[Section, GenerationSettings]:
        """The sections that write queries, in their order; most recipes have one."""
        return sections_of(self.generation)

    @property
    def asking(self) -> GenerationSettings:
        """The section that says for which sources queries are written: the first that asks for neighbours, or is first.

        Raises:
            InputError: a query type has a mistake.
        """
        from generation.query_types import load_types
        from generation.sources.stage import asks_for_neighbours

        several = list(self.sections.values())
        return next((one for one in several if asks_for_neighbours(load_types(one))), several[0])

    @property
    def extractive(self) -> bool | frozenset[int]:
        """Whether the queries quote their sources; where only some do, the numbers of the sections that write those."""
        numbers = {section.number for section, own in self.sections.items() if own.engine == "extractive"}
        return len(numbers) > 0 if len(numbers) in (0, len(self.sections)) else frozenset(numbers)

    @property
    def judge(self) -> JudgeSettings | None:
        """The judge of written queries, if there is one."""
        return one_judge(self.sections)

    @property
    def judged_sections(self) -> frozenset[int]:
        """Numbers of the sections whose queries are judged."""
        return frozenset(section.number for section, own in self.sections.items() if own.judge)

    def dense_retrievers(self) -> dict[str, EncoderSettings]:
        """The encoder of every dense retriever; a retriever that names none uses the student's base model."""
        retrievers = self.retrieval.retrievers.items()
        return {name: dense.encoder or self.student_encoder() for name, dense in retrievers if dense.kind == "dense"}

    def in_language(self, code: str) -> Recipe:
        """This recipe with BM25 reading the language of the corpus, where it names neither language nor tokenizer."""
        retrievers = {
            name: one.in_language(code) if one.kind == "bm25" else one
            for name, one in self.retrieval.retrievers.items()
        }
        follows = any(one.kind == "bm25" for one in retrievers.values())  # then a teacher reads as the first of them
        teachers = {
            name: one.in_language(code) if one.kind == "bm25" and not follows else one
            for name, one in self.teachers.items()
        }
        retrieval = self.retrieval.model_copy(update={"retrievers": retrievers})
        return self.model_copy(update={"retrieval": retrieval, "teachers": teachers})

    def given_teachers(self) -> dict[str, TeacherSettings]:
        """The teachers that are there before the run; the others are fine-tuned from their scores."""
        return {name: teacher for name, teacher in self.teachers.items() if teacher.kind != "adapted"}

    def scoring_teachers(self) -> dict[str, TeacherSettings]:
        """All teachers as they score: an adapted one as the cross-encoder that it begins with."""
        return {
            name: as_cross_encoder(teacher, teacher.model or self.student.model)
            if teacher.kind == "adapted"
            else teacher
            for name, teacher in self.teachers.items()
        }

    def student_encoder(self) -> EncoderSettings:
        """The settings of the student's base model as an encoder, for retrievers and teachers."""
        return EncoderSettings(**self.student.model_dump(include=set(EncoderSettings.model_fields)))

    def models(self) -> dict[str, ModelName]:
        """Every model that this program loads, by the field that names it; the model of a server is not one of them."""
        named: dict[str, Any] = {"student": self.student}
        found = {}
        for section, generation in self.sections.items():
            if generation.engine == "vllm":
                named[section.field] = generation
                if generation.lora:
                    found[f"{section.field}.lora"] = ModelName(generation.lora, generation.lora_revision)
            named[f"{section.field}.judge"] = generation.judge
        for name, retriever in self.retrieval.retrievers.items():
            named[f"retrieval.retrievers.{name}.encoder"] = retriever.encoder
        for name, teacher in self.teachers.items():
            named[f"teachers.{name}"] = None if teacher.kind == "http" else teacher
            named[f"teachers.{name}.encoder"] = teacher.encoder
        models = {f"{field}.model": ModelName(one.model, one.revision) for field, one in named.items() if one}
        return {field: model for field, model in models.items() if model.name} | found

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, with every default."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _secrets(data: Any, parent: str) -> Iterator[tuple[str, str]]:
    """Fields that hold a secret, each with the sign of it; the secret itself is not shown."""
    if isinstance(data, dict):
        for key, value in data.items():
            field = f"{parent}.{key}" if parent else str(key)
            if isinstance(value, str) and value and is_secret_name(str(key)):
                yield field, "as its name says"
            else:
                yield from _secrets(value, field)
    elif isinstance(data, list):
        for value in data:
            yield from _secrets(value, parent)
    elif isinstance(data, str) and (what := secret_in_url(data)):
        yield parent, f"{what} in the url"


def _check_names(named: dict[str, Any]) -> None:
    for name in named:
        if not name or not set(name) <= NAME_CHARACTERS or name.startswith("."):
            raise ValueError(f"the name {name!r} becomes part of a path: use letters, digits, '-', '_' and '.'")
