"""The reference page, made of the same document."""

from __future__ import annotations

import re

from api.app import create_app
from api.openapi import document
from jobs.settings import Settings


def test_the_page_has_every_operation_and_model_and_needs_nothing_from_elsewhere() -> None:
    """Each operation and each model that is referred to has its place on /docs; nothing is loaded from another host."""
    app = create_app(Settings())
    page = app.test_client().get("/docs").text
    described = document(app)
    operations = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert operations
    assert [one for one in operations if f'<section id="{one}">' not in page] == []
    anchors = set(re.findall(r'href="#([^"]+)"', page))
    assert {anchor for anchor in anchors if f'id="{anchor}"' not in page} == set()
    assert not re.search(r'(src|href)="(https?:)?//|<script|@import|url\(', page)


def test_no_text_of_ours_becomes_markup() -> None:
    """What stands in a description is shown, not interpreted."""
    app = create_app(Settings())
    view = app.view_functions["jobs.create"]
    before, view.__doc__ = view.__doc__, "<b>bold</b> & `<code>`"
    try:
        page = app.test_client().get("/docs").text
    finally:
        view.__doc__ = before
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; <code>&lt;code&gt;</code>" in page
