"""Playwright against one session, again and again. Prints one JSON object; any failure is a traceback and exit status 1.

    reconnect_client.py ENDPOINT leave TITLE    opens a page of this title in the session's browser, and disconnects
    reconnect_client.py ENDPOINT find           says which titles its pages have, and the sum that its script has kept
"""

import asyncio
import json
import sys

from playwright.async_api import async_playwright


async def main():
    endpoint, task, *words = sys.argv[1:]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(endpoint)
        context = browser.contexts[0]
        if task == "leave":
            page = await context.new_page()
            await page.goto(f"data:text/html,<title>{words[0]}</title><script>let kept = 40</script>")
        titles, sums = [], []
        for page in context.pages:
            titles.append(await page.title())
            sums.append(await page.evaluate("() => typeof kept == 'undefined' ? null : ++kept"))
        await browser.close()
    print(json.dumps({"titles": titles, "sums": sums}), flush=True)


asyncio.run(main())
