"""An app with things of all kinds in it, whose ids requests can name."""

from __future__ import annotations

from tests.api.client import Client, package


def things(client: Client) -> dict[str, list[str]]:
    """Make them; their ids and names, by the names of the parameters and fields that hold such."""

    def made(path: str, **body: object) -> dict[str, str]:
        answer = client.simulate_post(path, json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json)

    runtimes = [client.runtime(name=f"runtime-{number}") for number in range(3)]
    sources = [f"def main():\n    return {number}\n" for number in range(6)]
    functions = [client.function(runtime_id=runtimes[0], package=package(source))["id"] for source in sources]
    image = {"name": "image", "code": {"source": "image", "image": "registry.example/x:1"}}
    functions.append(made("/v1/functions", **image)["id"])
    for function_id in functions[:4]:
        made(f"/v1/functions/{function_id}/versions")
    names = [f"alias-{number}" for number in range(4)]
    for name in names:
        made("/v1/aliases", name=name, function_id=functions[0], function_version=1)
    on = {"function_id": functions[0]}
    return {
        "runtime_id": runtimes,
        "function_id": functions,
        "version": ["0", "1"],
        "function_version": ["0", "1"],
        "alias_name": names,
        "function_alias": names,
        "webhook_id": [made("/v1/webhooks", **on)["id"] for _ in range(4)],
        "job_id": [made("/v1/jobs", **on, pattern="0 0 * * *")["id"] for _ in range(4)],
        "execution_id": [made("/v1/executions", **on)["id"] for _ in range(6)],
    }
