"""Makes the text that the model is trained on: stories from plots.txt, questions from facts.txt and questions.txt.

    python3 stories.py FOLDER --stories 96000 --questions 48000 --seed 1

writes FOLDER/train.txt and held-out text of both kinds (stories.txt, questions.txt), an </s> before each document.
Held-out questions are pairs of a fact and a way to ask that the training text does not have.
"""

import argparse
import hashlib
import random
import re
from pathlib import Path

import words as w

HERE = Path(__file__).parent
FORMS = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself"),
         "it": ("it", "it", "its", "itself")}
END = "</s>"


def an(noun):
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def plural(noun):
    irregular = {"mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "fish": "fish", "wolf": "wolves",
                 "leaf": "leaves", "foot": "feet", "tooth": "teeth", "knife": "knives"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("man") and noun != "human":
        return noun[:-2] + "en"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "to")) else "s")


def first_up(text):
    return text[:1].upper() + text[1:]


def look_up(key, known):
    """A word of the story: <x>, <X> with a capital, <a:x> with its article, <the:x> in place of its article."""
    form, _, name = key.rpartition(":")
    if name in known:
        word = known[name]
    else:
        word = first_up(known[name.lower()])
    if form.lower() == "a":
        word = an(word)
    elif form.lower() == "the":
        word = "the " + re.sub("^(an?|the) ", "", word)
    return first_up(word) if form[:1].isupper() else word


def expand(text, known, rng):
    """Chooses in [a|b], innermost first, keeps what `=<x>` names, and fills in the words."""
    while match := re.search(r"\[([^\[\]]*)\](=<(\w+)>)?", text):
        chosen = rng.choice(match[1].split("|"))
        if match[3]:
            chosen = fill(chosen, known)
            known[match[3]] = chosen
        text = text[:match.start()] + chosen + text[match.end():]
    text = " ".join(fill(text, known).split())
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!uni|one|use)", r"\1n ", text)


def fill(text, known):
    return re.sub(r"<([\w:]+)>", lambda m: look_up(m[1], known), text)


def person(known, prefix, name, pronoun):
    she, her, its, herself = FORMS[pronoun]
    known |= {prefix + "he": she, prefix + "him": her, prefix + "his": its, prefix + "himself": herself}
    return name


def human(pronoun, rng):
    """The trade of a hero who is not an animal; a girl is never a prince."""
    if rng.random() < .7:
        return "girl" if pronoun == "she" else "boy"
    return rng.choice([trade for trade in w.TRADES if trade != ("prince" if pronoun == "she" else "princess")])


def cast(rng):
    """The names and things that a story is about."""
    known = {"C": rng.choice(w.COLORS), "P": rng.choice(w.SPOTS), "A": rng.choice(w.SMALL), "E": rng.choice(w.SNACKS)}
    known["e"] = known["E"].split(" of ")[-1]
    known["t"] = rng.choice(w.TOYS)
    color = rng.choice(w.COLORS)
    known["T"] = rng.choice([color, color, "little", "big", "new", "old", "wooden"]) + " " + known["t"]
    animals = rng.random() < .4
    names = rng.sample(w.PETS, 2) if animals else None
    kinds = rng.sample(w.HEROES, 2)
    for n, (prefix, key) in enumerate((("", "H"), ("f", "F"))):
        pronoun = rng.choice(("she", "he"))
        name = names[n] if animals else rng.choice(w.GIRLS if pronoun == "she" else w.BOYS)
        while name == known.get("H"):
            name = rng.choice(w.GIRLS + w.BOYS)
        known[key] = person(known, prefix, name, pronoun)
        known["kind" if n == 0 else "fkind"] = kinds[n] if animals else human(pronoun, rng)
    pronoun = rng.choice(("she", "he"))
    known["G"] = person(known, "g", rng.choice(w.GROWN[pronoun]), pronoun)
    return known


OPENINGS = [
    "Once upon a time, there was a [little|small|young|] <kind> named <H>.",
    "There was once a [little|small|] <kind> [called|named] <H>.",
    "<H> was a [little|small|kind|happy|clever|brave|shy] <kind>.",
    "This is the story of <H>, a [little|small|young] <kind>.",
    "In a [small house|little village|green valley] [near the forest|by the sea|at the foot of a hill|by a river] lived "
    "a [little|small|] <kind> named <H>.",
]
MORE = [
    "<He> lived with <G> in a [small|little|yellow|white|crooked] house [near the forest|by the sea|at the edge of the "
    "village|on a hill].",
    "<He> liked to [sing|run|draw|dance|swim|climb trees|look at the clouds|listen to stories|play outside].",
    "<H> had a friend [named|called] <F>, a [little|funny|clever|kind] <fkind>.",
    "<H> and <F>, the <fkind>, [were good friends|lived next to each other|often played together].",
    "<He> was [very curious|always in a good mood|a little shy|never bored|not very big, but very brave].",
    "Everybody [liked|knew] <him>.",
]
REQUESTS = [
    "[Tell me|Write] a [short |little |]story <about>.", "[Please tell|Can you tell|Tell] me a story <about>.",
    "I want to hear a story <about>.", "Do you know a story <about>?", "A story <about>, please.",
]
NO_HERO = ("about a greedy animal", "about a race", "about a king", "about a lost dog")


def plots():
    """Each plot: what it is about, its lines, and the questions it answers."""
    found = []
    for block in (HERE / "plots.txt").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        asked = [[part.strip() for part in line[1:].split(" | ")] for line in lines if line[0] == "?"]
        found.append((lines[0][2:], [line for line in lines[1:] if line[0] != "?"], asked))
    return found


def story(plot, rng):
    """A story; half of them begin with a request for it, and a third end with questions about it."""
    topic, lines, asked = plot
    known = cast(rng)
    told = []
    if topic not in NO_HERO or topic == "about a lost dog":
        more = rng.sample(MORE, rng.choice((0, 1, 1, 2)))
        if sum("<F>" in line for line in more) > 1:
            more = more[:1]
        told.append(" ".join(expand(line, known, rng) for line in [rng.choice(OPENINGS)] + more))
    if topic == "scenes":  # a day: how it begins, any things that happen, how it ends
        topic = "about a day"
        ends = rng.choice((lines[-2:-1], lines[-1:], lines[-2:]))
        lines = lines[:1] + rng.sample(lines[1:-2], rng.choice((3, 4, 5))) + ends
    told += [expand(line, known, rng) for line in lines]
    text = "\n".join(line for line in told if line)
    if rng.random() < .5:
        known["about"] = expand(topic, known, rng)
        if topic not in NO_HERO and rng.random() < .5:
            other = "<T>" if any("<T>" in line for line in lines) else "<fkind>"
            known["about"] = expand(rng.choice(["about a <kind> named <H>", "about a <kind>", "about <H> and <F>",
                                                f"about a <kind> and a {other}"]), known, rng)
        text = f"Question: {expand(rng.choice(REQUESTS), known, rng)}\nAnswer: {text}"
    if asked and rng.random() < .35:
        for question, answer in rng.sample(asked, rng.choice((1, len(asked)))):
            text += f"\nQuestion: {expand(question, known, rng)}\nAnswer: {expand(answer, known, rng)}"
    return text


def facts():
    """Sections of facts.txt: name -> list of {column: text}."""
    sections, rows, columns = {}, None, None
    for line in (HERE / "facts.txt").read_text().splitlines():
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            name, columns = line[1:].split("] ")
            columns = [column.strip() for column in columns.split("|")]
            rows = sections.setdefault(name, [])
            continue
        row = dict(zip(columns, (part.strip() for part in line.split(" | ")), strict=True))
        rows.append(row)
    return sections


def questions(sections):
    """Every fact with every way to ask for it: (words, question, answer, whether it is held out)."""
    for line in (HERE / "questions.txt").read_text().splitlines():
        if not line or line[0] == "#":
            continue
        # A | inside [] is a choice and none outside.
        section, question, answer = [part.strip() for part in re.split(r"\|(?![^\[]*\])", line)]
        for row in sections[section]:
            known = dict(row)
            if "name" in known:
                known["many"] = plural(known["name"])
                known["one"] = known["name"] if known["name"] in w.STUFF else an(known["name"])
            mark = hashlib.sha256(f"{question} {list(row.values())[0]}".encode()).digest()[0]
            yield known, question, answer, section in ("animal", "person", "place", "thing", "food") and mark < 20


def asked(entry, rng):
    known, question, answer, _ = entry
    return f"Question: {expand(question, dict(known), rng)}\nAnswer: {expand(answer, dict(known), rng)}"


def main():
    args = argparse.ArgumentParser()
    args.add_argument("out", type=Path)
    args.add_argument("--stories", type=int, default=96000)
    args.add_argument("--questions", type=int, default=48000)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    rng = random.Random(args.seed)
    args.out.mkdir(exist_ok=True)
    every = plots()
    every += [plot for plot in every if plot[0] == "scenes"] * 4
    known = list(questions(facts()))
    train = [entry for entry in known if not entry[3]]
    write(args.out / "stories.txt", [story(rng.choice(every), rng) for _ in range(400)])
    write(args.out / "questions.txt", [asked(entry, rng) for entry in known if entry[3]])
    documents = [story(rng.choice(every), rng) for _ in range(args.stories)]
    documents += [asked(rng.choice(train), rng) for _ in range(args.questions)]
    rng.shuffle(documents)
    write(args.out / "train.txt", documents)


def write(path, documents):
    text = "".join(END + document for document in documents)
    path.write_text(text)
    print(f"{path}: {len(documents)} documents, {len(text)} bytes")


if __name__ == "__main__":
    main()
