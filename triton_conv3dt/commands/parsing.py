"""The parser of the command line: argparse's, whose errors say what comes close to what was typed."""

import argparse
import difflib
import re


class Parser(argparse.ArgumentParser):
    """argparse's parser, which answers a command, an option or a choice that does not exist by those spelled alike."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but nothing may be unknown: each command refuses for itself what it does not know."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str):
        super().error(message + self._close(message))

    def _close(self, message: str) -> str:
        """What could have been meant, by a message of argparse."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message, re.DOTALL):
            return did_you_mean([choice[1]], re.findall(r"[\w.-]+", choice[2]))
        if message.startswith("unrecognized arguments: "):
            typed = [word.partition("=")[0] for word in message.split()[2:] if word.startswith("-")]
            return did_you_mean(typed, self._option_string_actions)
        return ""


def did_you_mean(typed, known) -> str:
    """The end of an error: which of the known words are spelled like those that were typed; "" where none is."""
    close = dict.fromkeys(word for text in typed for word in difflib.get_close_matches(text.lower(), known, n=2))
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
