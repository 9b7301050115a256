"""The client of a node: by DIMSE, by DICOMweb, or each thing its own way."""

from __future__ import annotations

from medsal.pacs.client import Client
from medsal.pacs.nodes import Node


class Mixed:
    """A node that is asked, read and written in different ways.

    Args:
        node: the node.
        asked: for `echo`, `find`, `instances` and `patient`.
        read: for `fetch`.
        written: for `store` and `confirm`.
    """

    def __init__(self, node: Node, asked: Client, read: Client, written: Client) -> None:
        self.node = node
        self.asked, self.read, self.written = asked, read, written
        self.find, self.instances, self.patient = asked.find, asked.instances, asked.patient
        self.fetch, self.store, self.confirm = read.fetch, written.store, written.confirm

    def echo(self) -> None:
        """Ask over every way that is used."""
        for client in dict.fromkeys((self.asked, self.read, self.written)):
            client.echo()


def connect(node: Node) -> Client:
    """Something to speak with a node.

    Args:
        node: of a site.

    Returns:
        A client; nothing is sent before one of its methods is called.
    """
    from medsal.pacs.dimse import DimseClient

    dimse = DimseClient(node)
    if not node.uses_web:
        return dimse
    from medsal.pacs.web import WebClient

    web: Client = WebClient(node)
    asked = web if node.query == "web" else dimse
    read = web if node.retrieve == "web" else dimse
    written = web if node.send_by == "web" else dimse
    return web if asked is read is written else Mixed(node, asked, read, written)
