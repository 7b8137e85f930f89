-- A member shows that it lives, gives shards back, and takes its share.
-- KEYS: group, members, names, dead letters, shards ..
-- ARGV: member, session in ms, 1 when it leaves, shards to give back ..
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'gone'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leaves = ARGV[3] == '1'
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[3], member)
end
if leaves then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
else
  redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[2]), ARGV[1])
end
local back = {}
for i = 4, #ARGV do
  back[tonumber(ARGV[i])] = true
end
local members, count = {}, 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  members[member] = 0
  count = count + 1
end
local shards = #KEYS - 4
local owners = {}
for p = 0, shards - 1 do
  local key = KEYS[5 + p]
  local held = redis.call('HMGET', key, 'owner', 'until')
  local owner = held[1]
  if owner and owner == ARGV[1] and (back[p] or leaves) then
    redis.call('HDEL', key, 'owner')
    owner = false
  elseif owner and (not members[owner] or tonumber(held[2]) <= now) then
    owner = false
  end
  owners[p] = owner
  if owner then
    members[owner] = members[owner] + 1
  end
end
if leaves then
  return {'left'}
end
-- Who owns the most keeps the most: as few shards move as possible.
local order = {}
for member, owned in pairs(members) do
  order[#order + 1] = {member, owned}
end
table.sort(order, function(a, b)
  if a[2] ~= b[2] then return a[2] > b[2] end
  return a[1] < b[1]
end)
local target = 0
for rank, entry in ipairs(order) do
  if entry[1] == ARGV[1] then
    target = math.floor(shards / count)
    if rank <= shards % count then target = target + 1 end
  end
end
local mine = members[ARGV[1]]
-- Members begin to look at different shards: none is always the last that somebody takes.
local begin = tonumber(string.sub(ARGV[1], -6), 16) % math.max(shards, 1)
local group = redis.call('HMGET', KEYS[1], 'backs', 'rev')
local dead = redis.call('XLEN', KEYS[4]) - (tonumber(group[1]) or 0)
local answer = {'lives', target, dead, tonumber(group[2]) or 0}
for i = 0, shards - 1 do
  local p = (begin + i) % shards
  local key = KEYS[5 + p]
  local until_ = string.format('%.0f', now + ARGV[2])
  if owners[p] == ARGV[1] then
    redis.call('HSET', key, 'until', until_)
    answer[#answer + 1] = {p, tonumber(redis.call('HGET', key, 'epoch')), 0}
  elseif not owners[p] and mine < target and redis.call('HEXISTS', key, 'low') == 1 then
    mine = mine + 1
    -- What went out before, and did not end, is with nobody now.
    redis.call('HSET', key, 'owner', ARGV[1], 'until', until_, 'taken', redis.call('HGET', key, 'out'))
    answer[#answer + 1] = {p, redis.call('HINCRBY', key, 'epoch', 1), 1}
  end
end
return answer
