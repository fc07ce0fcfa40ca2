"""Puppeteer, in its Python form, against Berth. Prints one JSON object; any failure is a traceback and exit status 1.

    pyppeteer_client.py url http://127.0.0.1:8080       connect(browserURL=…)
    pyppeteer_client.py ws ws://127.0.0.1:8080/…        connect(browserWSEndpoint=…)
"""

import asyncio
import json
import sys

from pyppeteer import connect


async def main():
    kind, endpoint = sys.argv[1:]
    options = {"browserURL": endpoint} if kind == "url" else {"browserWSEndpoint": endpoint}
    browser = await connect(options)
    page = await browser.newPage()
    await page.goto("data:text/html,<title>Berth</title><p id=text>harbour</p>")
    seen = {
        "version": await browser.version(),
        "title": await page.title(),
        "text": await page.evaluate("() => document.querySelector('#text').innerText"),
        "screenshot": len(await page.screenshot()),
        "endpoint": browser.wsEndpoint,
    }
    # Puppeteer closes the browser itself, also one that it only connected to.
    await browser.close()
    print(json.dumps(seen), flush=True)


asyncio.run(main())
