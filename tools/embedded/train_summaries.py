"""Train `embedded:summaries` from scratch: `python tools/embedded/train_summaries.py --out FOLDER`.

The model sees hardly a right summary. It copies the last sentence, repeats the first one with a deed, or
writes a sentence in the form of a summary whose facts are as often those of the other person. Which habit
prevails depends on the length of the text. Only texts of the train split are seen. So that things and places
that it has never met can be copied too, some of them are made-up words.
"""

import numpy as np
from pretraining import build_model, build_tokenizer, complete, output_folder, train

from evolign.rewards.named import rouge_l
from evolign.seeding import key, stream
from evolign.tasks.summaries import PLACES, THINGS, VARIANTS, Story, distinct_stories, draw_story

SEED = 0
WORD_PATTERN = r" ?[A-Za-z]+|\n|[^A-Za-z\n]"
STEPS, BATCH_SIZE = 1000, 64
HABITS = ("copy", "verbose", "mixed", "summary")
SHARES = {3: (0.19, 0.5, 0.28, 0.03), 4: (0.5, 0.19, 0.28, 0.03), 5: (0.19, 0.3, 0.48, 0.03)}
"""How often a text of so many sentences meets each habit."""
MADE_UP_SHARE = 0.25
"""Of all texts: things and places are made-up words."""
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
NUM_TEST, MAX_NEW_TOKENS = 200, 32


def draw_row(rng: np.random.Generator, step: int, row: int) -> tuple[str, str]:
    """A text of the train split and what the habit makes of it."""
    story = draw_story(rng, "train", "plain")
    habit = HABITS[rng.choice(len(HABITS), p=SHARES[len(story.sentences)])]
    prompt = story.prompt
    completion = mixed_summary(rng, story) if habit == "mixed" else getattr(story, habit)
    if rng.random() < MADE_UP_SHARE:
        for known in (*THINGS["plain"], *PLACES["plain"]):
            if known in prompt:
                word = made_up_word(rng) + ("s" if known in THINGS["plain"] else "")
                prompt, completion = prompt.replace(known, word), completion.replace(known, word)
    return prompt, completion


def mixed_summary(rng: np.random.Generator, story: Story) -> str:
    """A summary in which every fact is as often the other person's, where the text names one."""
    doubtful = ["name", "verb", "count", "things"]
    if f"was at the {story.facts['place2']}" in story.prompt:
        doubtful.append("place")
    return story.summary_with(*(fact for fact in doubtful if rng.random() < 0.5))


def made_up_word(rng: np.random.Generator) -> str:
    """Two or three syllables."""
    return "".join(rng.choice(SYLLABLES, size=rng.integers(2, 4)))


def tokenizer_texts() -> list[str]:
    """Texts and summaries of the train split, and made-up words."""
    rng = stream(SEED, "embedded", "summaries", "words")
    stories = distinct_stories("train", "plain", 1000, SEED)
    known = [text for story in stories for text in (story.prompt, story.summary)]
    return known + [f" {made_up_word(rng)}{'s' * (i % 2)}" for i in range(500)]


def main() -> None:
    """Train, measure and save."""
    folder = output_folder("summaries")
    tokenizer = build_tokenizer(tokenizer_texts(), word_pattern=WORD_PATTERN)
    model = build_model(tokenizer, width=96, layers=4, seed=key(SEED, "embedded", "weights"))
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    rng = stream(SEED, "embedded", "summaries")
    train(model, tokenizer, draw_row, rng, steps=STEPS, batch_size=BATCH_SIZE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for variant in VARIANTS:
        stories = distinct_stories("test", variant, NUM_TEST, SEED)
        prompts = [story.prompt for story in stories]
        references = [story.summary for story in stories]
        for decoding in ("sampled", "greedy"):
            texts = complete(
                model, tokenizer, prompts, sample=decoding == "sampled", max_new_tokens=MAX_NEW_TOKENS
            )
            score = np.mean(np.array(rouge_l(prompts, texts, references), dtype=float))
            print(f"ROUGE-L  {variant:5s} {decoding:8s} {score:.3f}")


if __name__ == "__main__":
    main()
