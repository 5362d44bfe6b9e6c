"""The official Python client against the bridge: both eras, standard input and output and HTTP.
Usage: client.py PROGRAM API-URL BRIDGE-URL"""

import asyncio
import sys

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

PROGRAM, API, BRIDGE = sys.argv[1:]


async def session(name, connect, mode):
    told = []

    async def progress(done, total, message):
        told.append((done, total, message))

    async with Client(connect(), mode=mode) as client:
        tools = (await client.list_tools()).tools
        names = [tool.name for tool in tools]
        assert names == ["add", "run_status"], names
        assert tools[0].input_schema["properties"]["a"] == {"type": "number"}, tools[0]
        result = await client.call_tool("add", {"a": 2, "b": 3.5}, progress_callback=progress)
        assert not result.is_error, result
        assert result.content[0].text.startswith("run 1f\n"), result
        hosts = result.structured_content["hosts"]
        assert {host: said["stdout"] for host, said in hosts.items()} == {"r1": "5.5\n", "r2": "5.5\n"}, hosts
        assert (2.0, 2.0) in [(done, total) for done, total, _ in told], told
        refused = await client.call_tool("add", {"a": "two", "b": 1})
        assert refused.is_error and "/a" in refused.content[0].text, refused
        resources = (await client.list_resources()).resources
        assert [str(r.uri) for r in resources][0] == "ctrl-exec://fleet", resources
    print(f"ok      {name}, {mode}")


async def main():
    server = StdioServerParameters(command=PROGRAM, env={"CTRLEXEC_API_URL": API})
    for mode in ("legacy", "auto", "2026-07-28"):
        await session("standard input and output", lambda: stdio_client(server), mode)
        await session("HTTP", lambda: BRIDGE, mode)


asyncio.run(main())
