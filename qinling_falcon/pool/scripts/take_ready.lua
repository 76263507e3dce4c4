-- take_ready: takes executions that are due, from all projects in turn, and from all functions of a project in turn.
-- ARGV    2 holder  3 how many, at most  4 the room of a project that is not named  5 of such a function
--         6 the number of named projects  7… pairs of (project, its room), then of (function, its room)
-- reads   turns, turns:<project>, queued:<project>:<function>
-- writes  turns, turns:<project>, queued:<project>:<function>, backlogs, drains
-- returns {ms until a further execution is due, or -1: none is known; executions…}
-- promises  Projects that are due get equal shares, of at least 1/16 each while any is left. Functions of a project
--           that are due get equal parts of its share, of at least 1/4 each. One that was served comes after all that
--           were not. A drain that could take more is added to `drains`, and a push of an execution that is due wakes
--           one.

-- Each function costs a lease, so shares of functions are larger.
local MOST_SHARES_OF_PROJECTS, MOST_SHARES_OF_FUNCTIONS = 16, 4
local MOST_AT_ONCE = 64

local next_ms, are_left, taken = math.huge, false, {-1}

-- Reads the pairs from ARGV[first] to ARGV[last]. Returns `by_name`: for how many executions of a named project or
-- function there is room; `default`: the same for one that is not named; `full`: how many have no room.
local function read_rooms(first, last, default)
  local rooms = {default = tonumber(default), full = 0, by_name = {}}
  for at = first, last, 2 do
    rooms.by_name[ARGV[at]] = tonumber(ARGV[at + 1])
    if rooms.by_name[ARGV[at]] == 0 then rooms.full = rooms.full + 1 end
  end
  return rooms
end

-- Takes executions of the members of `turns` whose turn has come: projects, or functions of a project. A member is in
-- `turns` as long as `set_of(member)` is not empty. `take(member, most)` returns how many executions it has taken.
local function take_in_turn(turns, most, most_shares, rooms, set_of, take)
  local due = call('ZRANGEBYSCORE', turns, '-inf', now, 'LIMIT', 0, MOST_AT_ONCE + rooms.full + 1)
  local members, left, served, has_more = {}, most, {}, {}
  for _, member in ipairs(due) do
    if (rooms.by_name[member] or rooms.default) > 0 then
      if #members == MOST_AT_ONCE then
        are_left = true
        break
      end
      members[#members + 1] = member
    end
  end
  local function take_share(member, share)
    local room = rooms.by_name[member] or rooms.default
    share = math.min(share, room, left)
    if share > 0 then
      local count = take(member, share)
      rooms.by_name[member], left = room - count, left - count
      served[member], has_more[member] = true, count == share
    end
  end
  local least = math.ceil(most / most_shares)
  for at, member in ipairs(members) do
    take_share(member, math.max(least, math.ceil(left / (#members - at + 1))))
  end
  for _, member in ipairs(members) do  -- gives out what is left of the shares
    if has_more[member] then take_share(member, left) end
  end
  for member in pairs(served) do
    local first = first_of(set_of(member))
    if first then
      call('ZADD', turns, text(math.max(first, now)), member)
    else
      call('ZREM', turns, member)
    end
  end
  local later = call('ZRANGEBYSCORE', turns, text(now + 1), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if later then next_ms = math.min(next_ms, tonumber(later) - now) end
  return most - left
end

local function take_of_function(set, most)
  local due = call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, most)
  if #due > 0 then call('ZREM', set, unpack(due)) end
  for _, execution in ipairs(due) do taken[#taken + 1] = execution end
  return #due
end

local first_function = 7 + 2 * tonumber(ARGV[6])
local projects = read_rooms(7, first_function - 1, ARGV[4])
local functions = read_rooms(first_function, #ARGV, ARGV[5])

local function take_of_project(project_id, most)
  local function set_of(function_id) return executions_of(project_id, function_id) end
  local function take(function_id, share) return take_of_function(set_of(function_id), share) end
  local count = take_in_turn(functions_of(project_id), most, MOST_SHARES_OF_FUNCTIONS, functions, set_of, take)
  count_backlog(project_id, -count)
  if call('EXISTS', functions_of(project_id)) == 0 then call('HDEL', BACKLOGS, project_id) end
  return count
end

local most = tonumber(ARGV[3])
local count = take_in_turn(TURNS, most, MOST_SHARES_OF_PROJECTS, projects, functions_of, take_of_project)
if count == most then return taken end

call('ZADD', DRAINS, text(now), ARGV[2])
if are_left and #taken > 1 then
  taken[1] = 0  -- more are due than were looked at
elseif next_ms < math.huge then
  taken[1] = next_ms
end
return taken
