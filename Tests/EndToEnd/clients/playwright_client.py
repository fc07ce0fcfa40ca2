"""Playwright against Berth, as a user writes it. Prints one JSON object; any failure is a traceback and exit status 1.

    playwright_client.py ENDPOINT [--count N] [--at-once N] [--in-turn N] [--work FILE]

--count N     N sessions, one after the other
--at-once N   N sessions that are all open at the same time
--in-turn N   N sessions, connected one after the other, that all stay open; says what each found on its arrival
--work FILE   one session that works on its page, a line of output per round, until FILE is there
"""

import argparse
import asyncio
import json
import os

from playwright.async_api import async_playwright

PAGE = "data:text/html,<title>Berth</title><p id=text>harbour</p><script>let n = 0</script>"


async def visit(browser):
    """Opens a page of its own, works with it and closes it; returns what it saw."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(PAGE)
    seen = {
        "title": await page.title(),
        "text": await page.inner_text("#text"),
        "sum": await page.evaluate("() => 40 + 2"),
        "screenshot": len(await page.screenshot()),
        "contexts": len(browser.contexts),
    }
    await context.close()
    return seen


async def session(playwright, endpoint):
    browser = await playwright.chromium.connect_over_cdp(endpoint)
    try:
        return {"version": browser.version, **await visit(browser)}
    finally:
        await browser.close()


async def at_once(playwright, endpoint, count):
    """All connected before the first one goes, so that nobody can have used another's browser."""
    browsers = await asyncio.gather(*(playwright.chromium.connect_over_cdp(endpoint) for _ in range(count)))
    seen = await asyncio.gather(*(visit(browser) for browser in browsers))
    await asyncio.gather(*(browser.close() for browser in browsers))
    return seen


async def in_turn(playwright, endpoint, count):
    """One program that opens a second browser while it has the first: its HTTP client keeps its connections."""
    browsers, found = [], []
    for _ in range(count):
        browser = await playwright.chromium.connect_over_cdp(endpoint)
        found.append([page.url for context in browser.contexts for page in context.pages])
        page = await browser.contexts[0].new_page()
        await page.goto(PAGE)
        browsers.append(browser)
    for browser in browsers:
        await browser.close()
    return found


async def work(playwright, endpoint, until):
    browser = await playwright.chromium.connect_over_cdp(endpoint)
    page = await browser.new_page()
    await page.goto(PAGE)
    rounds = 0
    while not os.path.exists(until):
        rounds += 1
        if await page.evaluate("() => ++n") != rounds:
            raise AssertionError("the page was not the one of the round before")
        await page.screenshot()
        print(f"round {rounds}", flush=True)
    await browser.close()
    return {"rounds": rounds}


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("endpoint")
    arguments.add_argument("--count", type=int, default=1)
    arguments.add_argument("--at-once", type=int, default=0)
    arguments.add_argument("--in-turn", type=int, default=0)
    arguments.add_argument("--work", metavar="FILE")
    given = arguments.parse_args()
    async with async_playwright() as playwright:
        if given.work:
            result = await work(playwright, given.endpoint, given.work)
        elif given.in_turn:
            result = {"found": await in_turn(playwright, given.endpoint, given.in_turn)}
        elif given.at_once:
            result = {"sessions": await at_once(playwright, given.endpoint, given.at_once)}
        else:
            result = {"sessions": [await session(playwright, given.endpoint) for _ in range(given.count)]}
    print(json.dumps(result), flush=True)


asyncio.run(main())
