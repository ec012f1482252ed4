"""Default chat template of LLM-CXR."""

# Instruction format of dolly-v2. The first text of a user's message is the instruction, the rest is its input.
CHAT_TEMPLATE = """\
{%- macro check(part) -%}
    {%- if part['type'] not in ('text', 'image') -%}
        {{- raise_exception("A message's content has parts of type 'text' and 'image', not '" + part['type'] + "'.") -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {{- check(part) + ('<image>' if part['type'] == 'image' else part['text']) -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {{- text_of(messages[0]['content']) + '\\n\\n' -}}
{%- else -%}
    {{- 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {%- set state = namespace(instruction=none, input='') -%}
        {%- if message['content'] is string -%}
            {%- set state.instruction = message['content'] -%}
        {%- else -%}
            {%- for part in message['content'] -%}
                {{- check(part) -}}
                {%- if part['type'] == 'image' -%}
                    {%- set state.input = state.input + '<image>' -%}
                {%- elif state.instruction is none -%}
                    {%- set state.instruction = part['text'] -%}
                {%- else -%}
                    {%- set state.input = state.input + part['text'] -%}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
        {{- '### Instruction:\\n' + (state.instruction or '') + '\\n\\n' -}}
        {%- if state.input -%}
            {{- 'Input:\\n' + state.input + '\\n\\n' -}}
        {%- endif -%}
    {%- elif message['role'] == 'assistant' -%}
        {{- '### Response:\\n' -}}
        {%- generation -%}
            {{- text_of(message['content']) + '\\n\\n### End' -}}
        {%- endgeneration -%}
        {{- '\\n\\n' if not loop.last -}}
    {%- elif message['role'] != 'system' or not loop.first -%}
        {{- raise_exception("Message " + loop.index|string + " has the role '" + message['role'] + "'. Known are 'user', "
            + "'assistant' and, for the first message, 'system'.") -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '### Response:\\n' -}}
{%- endif -%}
"""
