"""A node over DICOMweb: QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient

from medsal.dicom.reasons import Refusal
from medsal.dicom.safe import LIMITS, open_file
from medsal.dicom.uids import derived_uid, valid_uid
from medsal.errors import UsageError
from medsal.pacs.client import Sent, Study, Wanted
from medsal.pacs.nodes import Node
from medsal.pacs.parts import Part, disk_trouble, move_into
from medsal.pacs.spool import object_name
from medsal.pacs.troubles import Problem, Trouble
from medsal.pacs.web_parts import Multipart, boundary_of
from medsal.pacs.web_query import OBJECT, SERIES, STUDY, STUDY_FIELDS, check_shape, keys_of, patient_of, study_of, text
from medsal.pacs.web_send import send
from medsal.pacs.web_session import Session, of_http, pieces, web_trouble

_ONE_PAGE = 1000
_PAGES = 10_000
_UNCOMPRESSED = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'
_PERHAPS_AS_IT_IS = frozenset({Problem.REJECTED, Problem.INCOMPLETE})
_AS_IT_IS = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class WebClient:
    """A `medsal.pacs.client.Client` that speaks HTTP.

    Args:
        node: with ``web_url``.

    Raises:
        UsageError: the node has no ``web_url``, or its certificates cannot be loaded.
    """

    def __init__(self, node: Node) -> None:
        if not node.web_url:
            raise UsageError(f"node {node.name}: DICOMweb needs web_url, got none")
        self.node = node
        self._root = node.web_url.rstrip("/")
        self._session = Session(node)
        self._web = DICOMwebClient(self._root, session=self._session, timeout=node.timeout)
        self._web.set_http_retry_params(retry=False)  # it would send objects again, and wait for minutes

    def echo(self) -> None:
        """Ask whether the node is there, and whether its answers are to what was asked.

        Raises:
            Trouble: it is not, or it ignores what it is asked for.
        """
        found = self._search("/studies", {}, most=1)
        uid = next((text(one, STUDY) for one in found if valid_uid(text(one, STUDY))), "")
        nobody = derived_uid("medsal", "self-test of a node")
        for asked, expected in ((uid, {uid}), (nobody, set())):
            if asked and {text(one, STUDY) for one in self._search("/studies", {STUDY: asked})} != expected:
                raise Trouble(Problem.UNREADABLE, f"{self.node.name}: queries by StudyInstanceUID find something else")

    def find(self, wanted: Wanted) -> list[Study]:
        """Look for studies.

        Args:
            wanted: matching keys; UIDs, plain identifiers and dates only.

        Returns:
            The studies, each once.

        Raises:
            UsageError: a key holds what servers do not agree on over QIDO-RS.
            Trouble: the node fails.
        """
        keys = keys_of(wanted)
        found: dict[str, Study] = {}
        for uid in wanted.study_uids or ("",):
            for one in self._search("/studies", {**keys, **({STUDY: uid} if uid else {})}):
                study = study_of(one)
                if study is not None and (not uid or study.uid == uid):
                    found.setdefault(study.uid, study)
        if not wanted.modality:
            return list(found.values())
        return [one for one in found.values() if not one.modalities or wanted.modality in one.modalities]

    def instances(self, study_uid: str) -> frozenset[str] | None:
        """The objects that the node holds of a study.

        Args:
            study_uid: study instance UID.

        Returns:
            Their SOP instance UIDs; None where the node does not answer such queries.

        Raises:
            Trouble: the node fails.
        """
        found = self._objects(study_uid)
        return None if found is None else frozenset(found)

    def patient(self, study_uid: str) -> str | None:
        """Whose study it is now.

        Args:
            study_uid: study instance UID.

        Returns:
            The patient's ID; None where the node does not say it, or says several.

        Raises:
            Trouble: the node fails.
        """
        return patient_of(self._search("/studies", {STUDY: study_uid}), study_uid)

    def fetch(self, study_uid: str, folder: Path) -> int:
        """Fetch a study in one request, or the series of it that lack something.

        Args:
            study_uid: study instance UID.
            folder: where its files go.

        Returns:
            Number of its objects that are in the folder.

        Raises:
            Trouble: ``nothing_received``, ``incomplete``, ``disk_full``, or what is wrong with the node.
        """
        wanted = self._objects(study_uid)
        self._complete(study_uid, wanted, folder)
        names = {path.name for path in folder.glob("object-*.dcm")}
        if not names:
            raise Trouble(Problem.NOTHING_RECEIVED, self.node.name)
        left = {uid for uid in wanted or () if object_name(uid) not in names}
        if left:
            raise Trouble(Problem.INCOMPLETE, f"{self.node.name}: {len(left)} of {len(wanted or ())} missing")
        return len(names if wanted is None else wanted)

    def store(self, files: Sequence[Path], done: Callable[[Sent], None] | None = None) -> list[Sent]:
        """Send objects, several in a request; one that cannot be sent does not stop the others.

        Args:
            files: DICOM files.
            done: told of each as it is known.

        Returns:
            What became of each, in the order of the files.

        Raises:
            Trouble: ``not_allowed``.
        """
        if not self.node.write:
            raise Trouble(Problem.NOT_ALLOWED, self.node.name)
        return send(self._web, self.node, files, done or (lambda _: None))

    def confirm(self, study_uid: str, uids: Sequence[str]) -> frozenset[str]:
        """Ask whether the node has what was sent.

        Args:
            study_uid: study instance UID.
            uids: SOP instance UIDs.

        Returns:
            Those that it does not have; all where it does not answer such queries.

        Raises:
            Trouble: the node fails.
        """
        return frozenset(uids) - (self.instances(study_uid) or frozenset())

    def _objects(self, study_uid: str) -> dict[str, str] | None:
        """SOP instance UID -> series instance UID; None where such queries are not answered."""
        if not valid_uid(study_uid):
            raise Trouble(Problem.BAD_OBJECT, "StudyInstanceUID")
        try:
            found = self._search(f"/studies/{study_uid}/instances", {})
        except _Status as status:
            if status.code == 404:
                return {}
            if status.code in {400, 405, 406, 501}:
                return None
            raise
        objects = {text(one, OBJECT): text(one, SERIES) for one in found}
        if not all(valid_uid(uid) and valid_uid(series) for uid, series in objects.items()):
            raise Trouble(Problem.UNREADABLE, f"{self.node.name}: objects without valid UIDs")
        return objects

    def _search(self, place: str, keys: dict[str, str], most: int | None = None) -> list[dict[str, Any]]:
        """All pages of an answer; a page without anything new is the last, also where the node cannot page."""
        found: dict[str, dict[str, Any]] = {}
        identity = OBJECT if place.endswith("/instances") else STUDY
        for _ in range(_PAGES):
            page = self._page(place, {**keys, "limit": str(most or _ONE_PAGE), "offset": str(len(found))})
            new = {text(one, identity): one for one in page if text(one, identity) not in found}
            found.update(new)
            if not new or most is not None:
                return list(found.values())
        raise Trouble(Problem.UNREADABLE, f"{self.node.name}: an endless answer")

    def _page(self, place: str, keys: dict[str, str]) -> list[dict[str, Any]]:
        fields = [SERIES, OBJECT] if place.endswith("/instances") else STUDY_FIELDS
        with web_trouble(self.node):
            try:
                page = self._ask(place, keys, fields)
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                raise _Status(self.node, code) from None
            check_shape(page)
        return page

    def _ask(self, place: str, keys: dict[str, str], fields: list[str]) -> list[dict[str, Any]]:
        """One query by dicomweb-client."""
        limit, offset = int(keys.pop("limit")), int(keys.pop("offset"))
        options: dict[str, Any] = {"limit": limit, "offset": offset, "fields": fields, "search_filters": keys}
        if place == "/studies":
            return list(self._web.search_for_studies(**options))
        return list(self._web.search_for_instances(place.split("/")[2], **options))

    def _complete(self, study_uid: str, wanted: dict[str, str] | None, folder: Path) -> None:
        """Fetch what is lacking: uncompressed, and then as it is stored, as some nodes cannot make it so."""
        for accept in (_UNCOMPRESSED, _AS_IT_IS):
            try:
                for place in _lacking(wanted, folder):
                    self._retrieve(study_uid, place, accept, folder)
            except Trouble as trouble:
                if accept is _AS_IT_IS or trouble.problem not in _PERHAPS_AS_IT_IS:
                    raise
            else:
                if wanted is None:
                    return

    def _retrieve(self, study_uid: str, place: str, accept: str, folder: Path) -> None:
        """Fetch what lies at an address of a study."""
        with web_trouble(self.node):
            url = f"{self._root}/studies/{study_uid}{place}"
            response = self._session.get(url, headers={"Accept": accept}, stream=True)
            if response.status_code == 404:
                response.close()
                return
            response.raise_for_status()
            number = self._receive(response, study_uid, folder)
        if number > LIMITS.files:
            raise Trouble(Problem.UNREADABLE, f"{self.node.name}: more than {LIMITS.files} objects")

    def _receive(self, response: requests.Response, study_uid: str, folder: Path) -> int:
        """Write the parts of an answer; what arrived before it broke off stays."""
        body = pieces(response, 2**63, self.node.timeout)
        boundary = boundary_of(response.headers.get("Content-Type", ""))
        number = 0
        for part in Multipart(body, boundary) if boundary else [body]:
            number += 1
            if number > LIMITS.files:
                break
            _keep(part, study_uid, folder)
        return number


class _Status(Trouble):
    """A failure by HTTP status, which some callers know more of."""

    def __init__(self, node: Node, code: int) -> None:
        super().__init__(of_http(code), f"{node.name}: HTTP {code}")
        self.code = code


def _lacking(wanted: dict[str, str] | None, folder: Path) -> list[str]:
    """What of a study is to be fetched: all of it, or the series that lack something."""
    missing = {uid for uid in wanted or () if not (folder / object_name(uid)).is_file()}
    if wanted is None or (missing and missing == set(wanted)):
        return [""]
    return [f"/series/{series}" for series in sorted({wanted[uid] for uid in missing})]


def _keep(content: Iterator[bytes], study_uid: str, folder: Path) -> None:
    """Write one object, if it is one of the study; what is not leaves the study incomplete."""
    with disk_trouble():
        part = Part(folder)
    try:
        for piece in content:
            if part.size + len(piece) > LIMITS.file_bytes:
                return
            part.write(piece)
        path = part.close()
        opened = open_file(path)
        if opened.text("StudyInstanceUID") == study_uid:
            with disk_trouble():
                move_into(path, folder / object_name(opened.uid))
    except Refusal:
        return
    finally:
        part.discard()
