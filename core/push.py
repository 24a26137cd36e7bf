"""`push_to_hub`: what `save_pretrained` writes, in one commit of a repository on the Hugging Face hub."""

from __future__ import annotations

import inspect
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.card import is_untouched
from vertebra.errors import did_you_mean, listing
from vertebra.files import write_text
from vertebra.hub import CheckpointFiles, HubOptions, is_offline

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

CARD_NAME = "README.md"

logger = logging.getLogger(__name__)


class PushToHubMixin:
    """Adds `push_to_hub` to a class with `save_pretrained`."""

    if TYPE_CHECKING:  # an annotation that exists at run time would be a setting of image processors
        save_pretrained: Any

    def _card(self, repo_id: str, tags: Sequence[str], license: str | None) -> str | None:
        """The text of a model card, or None for what is no model."""
        return None

    def _files_replaced(self, files: CheckpointFiles, **saving: Any) -> set[str]:
        """Names of the files in a repository that saving with these arguments replaces, whatever the new ones are called."""
        return set()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: Sequence[str] | None = None,
        license: str | None = None,
        **saving: Any,
    ) -> CommitInfo:
        """Save into a temporary folder and upload that in one commit, so that a reader sees the old files or the new ones.

        The same commit removes the shards of former weights that the new index does not name; files in other formats
        stay. A model brings a model card, unless the repository has one that somebody wrote or edited. A repository or
        branch that does not exist is made, and stays (without the files) where the upload fails afterwards.

        Args:
            repo_id: `organisation/name`, or `name` in your own namespace.
            commit_message: First line of the commit; `Upload <class>` when None.
            commit_description: The rest of its text.
            private: Whether a new repository is private; None leaves it to the namespace.
            token: Token with write access; None or True takes the one of `hf auth login` or `HF_TOKEN`.
            revision: Branch; `main` when None.
            create_pr: Propose the commit as a pull request instead of moving the branch.
            tags: Further tags of the model card.
            license: License of the weights, as the hub spells it (`apache-2.0`, …), for the model card.
            **saving: Arguments of `save_pretrained` (for models `max_shard_size`, `variant`, `state_dict`).

        Returns:
            The hub's description of the commit: `commit_url`, `oid`, and `pr_url` where one was made.

        Raises:
            ValueError: the name is no repository's, or what is saved has no values (meta device).
            TypeError: an argument that nobody takes.
            OSError: offline mode, no token, a token without the right to write, a public repository with `private=True`,
                a hub that refuses or does not answer, or no temporary folder that can be written.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        self._check_push(repo_id, token, saving)
        api = HfApi(token=token)
        with _temporary_folder() as folder:
            self.save_pretrained(folder / "new", **saving)
            with _explained(repo_id):
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                _make_branch(api, repo_id, revision, create_pr)
                head = api.model_info(repo_id, revision=revision)
            if private and head.private is False:
                raise OSError(
                    f"private=True, but {repo_id!r} exists and is public; private is for new repositories. Nothing was uploaded. "
                    f"Make it private on its settings page, or push to another name."
                )
            options = HubOptions(revision=head.sha, token=token, cache_dir=folder / "former")
            files = CheckpointFiles(repo_id, options)
            present = {sibling.rfilename for sibling in head.siblings or ()}
            card = self._card(repo_id, tags or (), license)
            if card is not None and (CARD_NAME not in present or is_untouched(files.require(CARD_NAME))):
                write_text(folder / "new" / CARD_NAME, card)
            elif tags or license:
                logger.warning("This push writes no model card to %s, so tags and license were not used.", repo_id)
            new = {path.relative_to(folder / "new").as_posix(): path for path in (folder / "new").rglob("*")}
            stale = sorted(self._files_replaced(files, **saving) & present - new.keys())
            with _explained(repo_id):
                return api.create_commit(
                    repo_id,
                    [
                        *(CommitOperationAdd(name, path) for name, path in sorted(new.items()) if path.is_file()),
                        *(CommitOperationDelete(name) for name in stale),
                    ],
                    commit_message=commit_message or f"Upload {type(self).__name__}",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=head.sha,  # what was looked up above holds for this commit alone
                )

    def _push_saved(self, folder: str | os.PathLike[str], hub: Mapping[str, Any], **saving: Any) -> None:
        """Do what `save_pretrained(…, push_to_hub=True, **hub)` asks for; the folder's name is the default `repo_id`."""
        hub = {**hub}
        self.push_to_hub(hub.pop("repo_id", None) or Path(folder).absolute().name, **hub, **saving)

    def _check_saving(self, push_to_hub: bool, hub: Mapping[str, Any]) -> None:
        """Refuse arguments of `save_pretrained` that nobody takes, before anything is written."""
        pushing = _keywords(PushToHubMixin.push_to_hub)
        for name in hub:
            if name not in pushing:
                known = [*_keywords(type(self).save_pretrained), *pushing]
                raise TypeError(
                    f"{type(self).__name__}.save_pretrained has no argument {name!r}.{did_you_mean(name, known)}"
                )
            if not push_to_hub:
                raise TypeError(f"save_pretrained({name}=…) is for the hub and needs push_to_hub=True.")

    def _check_push(self, repo_id: str, token: str | bool | None, saving: Mapping[str, Any]) -> None:
        from huggingface_hub import get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(
                f"repo_id={repo_id!r} is no name of a hub repository: it is 'organisation/name' or 'name', of at most 96 letters, "
                f"digits, '-', '_' and '.', e.g. push_to_hub('my-organisation/my-model')."
            ) from error
        for name in saving:
            if name not in (accepted := _keywords(type(self).save_pretrained)):
                known = [*accepted, *_keywords(PushToHubMixin.push_to_hub)]
                raise TypeError(
                    f"{type(self).__name__}.push_to_hub has no argument {name!r}.{did_you_mean(name, known)} Beside push_to_hub's "
                    f"own it takes those of save_pretrained: {listing(accepted) or 'none here'}."
                )
        if is_offline():
            raise OSError(
                f"HF_HUB_OFFLINE is set, so {repo_id!r} was not pushed. Unset it, or save_pretrained(folder)."
            )
        if token is False or (not isinstance(token, str) and get_token() is None):
            raise OSError(
                f"Pushing to {repo_id!r} needs a token with write access, and there is none: pass token=…, set HF_TOKEN, or "
                f"run `hf auth login`."
            )


def _keywords(function: Any) -> list[str]:
    """Names of a method's arguments, without those that say where a save goes."""
    parameters = inspect.signature(function).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind != p.VAR_KEYWORD and p.name not in ("self", "save_directory", "push_to_hub")
    ]


def _make_branch(api: HfApi, repo_id: str, revision: str | None, create_pr: bool) -> None:
    """Make a branch to push to; pull requests (`refs/pr/3`) and what one is made against exist already."""
    if revision not in (None, "main") and not create_pr and not str(revision).startswith("refs/"):
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="vertebra-push-")
    except OSError as error:
        raise OSError(
            f"push_to_hub saves into a temporary folder first, and none can be written ({error}). Set TMPDIR to a folder "
            f"with room for the weights."
        ) from error
    with folder as name:
        yield Path(name)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn what the hub client raises into an OSError that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    # The client's own error, what its HTTP library raises without an answer, RuntimeError around either, and no JSON.
    client_errors: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError, RuntimeError, JSONDecodeError)
    try:
        yield
    except client_errors as error:
        wrapped = error.__cause__ if isinstance(error, RuntimeError) else None
        raise OSError(_explanation(repo_id, wrapped or error)) from error


def _explanation(repo_id: str, error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    told = " ".join(str(error).split())
    if status == 401:
        return (
            f"The hub does not accept this token for {repo_id!r}. Make one with write access on the hub's settings page, then pass "
            f"token=… or run `hf auth login`. ({told})"
        )
    if status == 403:
        return (
            f"This token may not write to {repo_id!r}. It needs the write role in that namespace; where you may only read, "
            f"create_pr=True proposes the commit. ({told})"
        )
    if status == 404:
        return (
            f"The hub has no such repository or revision to push to, or hides it from this token: {repo_id!r}. ({told})"
        )
    if status == 412:
        return (
            f"Somebody committed to {repo_id!r} while this push was under way; nothing of it was written. Push again."
        )
    if status is not None and status < 500:
        return f"The hub refused the push to {repo_id!r}; its files are as they were. ({told})"
    return (
        f"The hub did not complete the push to {repo_id!r}: its files are as they were, or all new where only the answer was "
        f"lost; pushing again is safe. ({type(error).__name__}: {told})"
    )
