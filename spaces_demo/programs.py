"""The page's text about its API."""

import os

ENDPOINTS = """
```python
from gradio_client import Client, handle_file

client = Client("ADDRESS")
print(client.predict(handle_file("EXAMPLE"), api_name="/translate")["text"])
print(client.predict(api_name="/about"))
```

```bash
video=$(curl -s -F files=@EXAMPLE ADDRESS/gradio_api/upload | cut -d '"' -f 2)
data='{"data": [{"path": "'$video'", "meta": {"_type": "gradio.FileData"}}, 0, 0, false, "en", 1, "no"]}'
job=$(curl -s -H "Content-Type: application/json" -d "$data" ADDRESS/gradio_api/call/translate | cut -d '"' -f 4)
curl -s -N ADDRESS/gradio_api/call/translate/$job
```
"""


def about_endpoints(texts: dict[str, str], example: str) -> str:
    host = os.environ.get("SPACE_HOST")
    address = f"https://{host}" if host else f"http://127.0.0.1:{os.environ.get('GRADIO_SERVER_PORT', 7860)}"
    head = f"## {texts['api_heading']}\n\n{texts['api_info']} {texts['api_errors']}"
    names = f"- `/translate`: {texts['api_translate']}\n- `/about`: {texts['api_about']}"
    return f"{head}\n\n{names}\n{ENDPOINTS.replace('ADDRESS', address).replace('EXAMPLE', example)}"
