"""A small judged collection of our own text: a hundred passages on invented places and crafts, and queries for them."""

from __future__ import annotations

import json
from pathlib import Path

PLACES = [
    ("Arlewick", "harbour town", "salted herring", "the north pier", "a copper lighthouse"),
    ("Bramsholt", "hill village", "sheep cheese", "the upper meadow", "a stone granary"),
    ("Corvane", "river city", "printed cotton", "the weir bridge", "an iron clock tower"),
    ("Dunmere", "lake settlement", "reed baskets", "the eastern shore", "a floating chapel"),
    ("Eskdorf", "mining town", "silver ore", "the long gallery", "a water wheel"),
    ("Fennick", "marsh hamlet", "eel smoking", "the peat causeway", "a wooden watch house"),
    ("Galloway Cross", "market town", "dyed wool", "the corn exchange", "a covered arcade"),
    ("Harrowgate", "forest village", "oak charcoal", "the king's clearing", "a beekeepers' lodge"),
    ("Istria Bay", "fishing port", "sponge diving", "the coral steps", "a whitewashed fort"),
    ("Jorvale", "mountain pass", "alpine herbs", "the glacier hut", "a cable railway"),
    ("Kestrel Point", "signal station", "kelp ash", "the storm beacon", "a weather observatory"),
    ("Lindenau", "garden suburb", "pear brandy", "the orchard school", "a glass palm house"),
    ("Mossburn", "mill town", "rag paper", "the lower dam", "a brick chimney"),
    ("Norrick", "desert outpost", "date syrup", "the caravan well", "a mud-brick archive"),
    ("Ostermark", "border town", "customs tariffs", "the toll gate", "a double-walled keep"),
    ("Pellingham", "university town", "bound atlases", "the old refectory", "an astronomers' dome"),
    ("Quarrow", "quarry village", "polished slate", "the terraced pit", "a funicular lift"),
    ("Rosenfeld", "spa town", "mineral water", "the pump room", "a colonnaded walk"),
    ("Selkirk Sound", "island community", "seal oil lamps", "the tidal mill", "a radio mast"),
    ("Thornaby", "railway junction", "steam boilers", "the turntable yard", "a signal museum"),
]
ASPECTS = [
    "{0} is a {1} best known for {2}. Traders have carried {2} from {0} along the coast road for three centuries, "
    "and the yearly fair still opens with a weighing of the first load.",
    "Visitors who come to {0} walk to {3}, where guides explain how the {1} was rebuilt after the great flood. "
    "The path to {3} is steep, and benches stand at every second turn.",
    "The landmark of {0} is {4}. It was raised by public subscription, and the council of the {1} repairs its roof "
    "each spring before the rains begin.",
    "Children in {0} learn the making of {2} at school. The workshop beside {3} lends tools, and the best pieces are "
    "shown inside {4} during the winter festival.",
    "Old maps place {0} further inland. Surveyors believe that silt from the valley moved the shore, so that {3} now "
    "lies dry and {4} stands where boats once turned.",
]
QUERIES = [
    "what is {0} known for trading", "path up to {3} for visitors of {0}", "who maintains {4} in {0}",
    "school lessons in {2} at {0}", "why do old maps show {0} elsewhere",
]  # fmt: skip


def write_hundred(folder: Path) -> Path:
    """Writes a BEIR folder of 100 passages and 20 judged queries; returns it."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    passages, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number, place in enumerate(PLACES):
        for aspect, template in enumerate(ASPECTS):
            text = template.format(*place)
            passages.append({"_id": f"p{number:02d}{aspect}", "title": place[0], "text": text})
        judged = number % len(ASPECTS)
        queries.append({"_id": f"q{number:02d}", "text": QUERIES[judged].format(*place)})
        qrels.append(f"q{number:02d}\tp{number:02d}{judged}\t1")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return folder
