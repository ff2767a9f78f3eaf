-- Quarto takes nbdev's `#| export` for YAML text and spells it into the cell's attributes (`0='e' 1='x' ...`), which Pandoc
-- cannot parse, so that the fences of the cell show as text (quarto-cli issue 4777). This filter puts such cells together again.

local function text(block)
  return block and (block.t == "Para" or block.t == "Plain") and pandoc.utils.stringify(block) or ""
end

local function opens(block)
  local t = text(block)
  return t:match("^::: ?{.*%.cell.* 0=.*}$") and (t:match("{#(%S+)") or "")
end

function Blocks(blocks)
  local out, i = pandoc.List(), 1
  while i <= #blocks do
    local id = opens(blocks[i])
    if id then
      local inside = pandoc.List()
      i = i + 1
      while i <= #blocks and text(blocks[i]) ~= ":::" do
        inside:insert(blocks[i])
        i = i + 1
      end
      out:insert(pandoc.Div(inside, pandoc.Attr(id, { "cell" })))
    else
      out:insert(blocks[i])
    end
    i = i + 1
  end
  return out
end
