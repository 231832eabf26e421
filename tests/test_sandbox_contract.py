"""Every sandbox and database of ours keeps the shared contract; one that cannot run here skips and says why."""

import asyncio

import pytest

from sandboxes import DockerShell, SandboxUnavailable, SqliteDatabase, ensure_image
from sandboxes.contract import DATABASE_CHECKS, SANDBOX_CHECKS, DatabaseCheck, SandboxCheck, failures


@pytest.fixture(scope="module")
def os_image() -> str:
    try:
        return ensure_image("os")
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.docker
@pytest.mark.usefixtures("os_image")
@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.__name__)
def test_docker_shell_keeps_the_contract(check: SandboxCheck) -> None:
    asyncio.run(check(DockerShell))


@pytest.mark.parametrize("check", DATABASE_CHECKS, ids=lambda check: check.__name__)
def test_sqlite_keeps_the_contract(check: DatabaseCheck) -> None:
    asyncio.run(check(SqliteDatabase))


class ForgetfulDatabase(SqliteDatabase):
    """One that breaks the contract: a reset leaves the tables."""

    async def reset(self) -> None:
        assert await self.alive()


def test_the_contract_finds_a_database_that_breaks_it() -> None:
    assert list(asyncio.run(failures(DATABASE_CHECKS, ForgetfulDatabase))) == ["database_reset_and_close"]
