"""Opens a page in a browser of Berth's and takes a picture of it. Needs `pip install playwright`, and no browser here."""
import sys
from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    browser = playwright.chromium.connect_over_cdp(sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080")
    page = browser.new_page()
    page.goto(sys.argv[2] if sys.argv[2:] else "data:text/html,<h1>A ship in its berth</h1>")
    page.screenshot(path="screenshot.png")
    browser.close()
