"""An agent's call of a tool of `darkroom mcp`: progress, the image, its link. pip install mcp

Kill it in the middle and run it again: it gets the image of the job that it ordered first.
"""

import asyncio
import base64
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red fox asleep"
# The variables by which `darkroom` finds its service; a client starts the server with no others than these.
environ = {name: os.environ[name] for name in ("DARKROOM_SERVER", "DARKROOM_KEY") if name in os.environ}
darkroom = StdioServerParameters(command="darkroom", args=["mcp"], env=environ)


async def progress(done: float, total: float | None, message: str | None) -> None:
    print(f"{done:.0%} {message}", flush=True)


async def main() -> None:
    async with Client(darkroom) as agent:
        answer = await agent.call_tool("generate_image", {"prompt": prompt}, progress_callback=progress)
        told = answer.structured_content
        while told["code"] == 504:  # the job takes longer than a call waits
            answer = await agent.call_tool("get_task", {"task_id": told["task_id"]}, progress_callback=progress)
            told = answer.structured_content
        if not told["success"]:
            raise SystemExit(told["message"])
        print(told["task_id"], told["data"]["image_url"])
        image = next(block for block in answer.content if block.type == "image")
        extension = image.mime_type.rpartition("/")[2]
        with open(f"fox.{extension}", "wb") as file:
            file.write(base64.b64decode(image.data))


asyncio.run(main())
