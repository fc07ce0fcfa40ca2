"""What a page sees of the browser that it is in. Prints one JSON object; any failure is a traceback and exit status 1.

    launch_client.py look ENDPOINT [URL]        the page's view of the default context, the cookies of it, and what became of
                                                a visit to URL: "" or the browser's error
    launch_client.py prepare DIRECTORY CHROME   makes a profile with a cookie there
"""

import asyncio
import json
import sys
import time

from playwright.async_api import async_playwright

VIEW = """() => ({
  language: navigator.language, languages: navigator.languages, userAgent: navigator.userAgent,
  timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone, width: innerWidth, height: innerHeight,
})"""


async def look(playwright, endpoint, url=None):
    browser = await playwright.chromium.connect_over_cdp(endpoint)
    context = browser.contexts[0]
    page = await context.new_page()
    await page.goto("data:text/html,<title>Berth</title>")
    seen = await page.evaluate(VIEW)
    seen["cookies"] = [f"{cookie['name']}={cookie['value']}" for cookie in await context.cookies()]
    if url:
        try:
            await page.goto(url)
            seen["visit"] = ""
        except Exception as error:
            seen["visit"] = str(error)
    await browser.close()
    return seen


async def prepare(playwright, directory, chrome):
    context = await playwright.chromium.launch_persistent_context(
        directory, executable_path=chrome, headless=True, args=["--no-sandbox"]
    )
    await context.add_cookies(
        [{"name": "basket", "value": "full", "url": "http://shop.test/", "expires": time.time() + 86400}]
    )
    cookies = len(await context.cookies())
    await context.close()
    return {"cookies": cookies}


async def main():
    task, *words = sys.argv[1:]
    async with async_playwright() as playwright:
        result = await {"look": look, "prepare": prepare}[task](playwright, *words)
    print(json.dumps(result), flush=True)


asyncio.run(main())
