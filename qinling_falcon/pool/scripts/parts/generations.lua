-- generations: what a target was resolved under, against what holds now.

local GENERATIONS = P .. 'generations'
local CHANGING_MS = 60000  -- the marker of a change that never ended expires after so long

-- A stored generation as callers see it: the value, 'changing <owner> <salt>' under a marker, or nil when it is missing
-- or its marker has expired.
local function generation(stored)
  if not stored then return nil end
  local till, mark = string.match(stored, '^changing (%d+) (.*)$')
  if till then return tonumber(till) > now and 'changing ' .. mark or nil end
  return stored
end

-- Whether all pairs of (cache key, generation) in list[first..] are current.
local function current(list, first)
  if first > #list then return true end
  local names = {}
  for at = first, #list, 2 do names[#names + 1] = list[at] end
  local stored = call('HMGET', GENERATIONS, unpack(names))
  for at = 1, #names do
    if generation(stored[at]) ~= list[first + at * 2 - 1] then return false end
  end
  return true
end
