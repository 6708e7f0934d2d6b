"""Which installed releases pyproject.toml does not allow yet."""

from importlib.metadata import version

from untested_versions import untested_versions


def test_installed_releases_are_compared_and_extras_that_are_not_installed_passed_over(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(
        "[project]\n"
        'dependencies = ["torch<1", "numpy>=1"]\n'
        "[project.optional-dependencies]\n"
        'all = ["flallm[one]", "no-such-package-of-anybody>=3", "pytest<1"]\n'
    )
    assert untested_versions(project) == [
        f"torch {version('torch')} (allowed: <1)",
        f"pytest {version('pytest')} (allowed: <1)",
    ]
