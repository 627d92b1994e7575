# Writes the files that a test's nginx reads: the configuration made from the sections of the test, with
# the modules that it needs, and the files that it serves.
package Test::Memstat::Configuration;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);

use Test::Memstat::Build ();

our @EXPORT_OK = qw(binary module_path needs_lua nginx_version stream_lua_module);

my $REPOSITORY = abs_path(dirname(__FILE__) . '/../../../..');
my $BINARY     = $ENV{TEST_NGINX_BINARY} || 'nginx';
my $MODULE     = abs_path($ENV{TEST_NGINX_MODULE}
        || "$REPOSITORY/objs/ngx_http_memstat_module.so");
# The linker options for the stand-in for ngx_stream_lua_module.
my @STREAM_LUA = ('-Wl,--no-as-needed', '-lluajit-5.1');

# Returns the path of the tested nginx.
sub binary { return $BINARY }

# Returns the path of the tested module.
sub module_path { return $MODULE }

# Writes the configuration, with these sections changed.
sub write_conf {
    my ($self, %changed) = @_;
    my $sections = $self->{sections} = { %{ $self->{sections} }, %changed };
    my ($main, $http, $server) =
        map { $self->expand($sections->{$_} // '') } qw(main_config http_config config);
    my @modules = further_modules("$main$http$server", $sections->{lua} // 1);
    push @modules, stream_lua_module() if $main =~ /^\s*stream\s*\{.*_by_lua/ms;
    my $module = $self->{module} // $MODULE;
    my $ours   = $sections->{module} // 'first';
    @modules = $ours eq 'last' ? (@modules, $module) : $ours ? ($module, @modules) : @modules;
    my $load = join '', map { "load_module $_;\n" } @modules;
    my $root   = $self->{root};
    my $level  = $sections->{log_level} // 'info';
    my $temp   = join '', map { "    ${_}_temp_path $root/temp_$_;\n" }
        qw(client_body proxy fastcgi uwsgi scgi);
    my $listen = $self->port;
    my $timeout = $ours ? $self->timeout("$main$http") : '';
    my $events = $main =~ /^\s*events\b/m ? '' : "events {\n    worker_connections 512;\n}\n";
    open my $conf, '>', $self->conf_path or die "cannot write " . $self->conf_path . ": $!\n";
    print $conf <<"END";
daemon off;
pid $root/nginx.pid;
error_log $root/logs/error.log $level;
lock_file $root/nginx.lock;
$load
$main
$events
http {
    access_log $root/logs/access.log;
$temp$timeout
$http
    server {
        listen 127.0.0.1:$listen;
        server_name localhost;
        root $root/html;
$server
    }
}
END
    close $conf or die "cannot write: $!\n";
    return $self;
}

# Returns how long an answer waits for a process, unless the sections set it: longer than any client of a
# test. So no process is late because the machine is busy, and a process that never answers fails the test.
sub timeout {
    my ($self, $conf) = @_;
    my $timeout = $self->{sections}{timeout} // '10m';
    return $timeout =~ /default/ || $conf =~ /^\s*memstat_timeout\b/m ? '' : "    memstat_timeout $timeout;\n";
}

# Replaces $TEST_NGINX_SERVER_PORT, $TEST_NGINX_SERVER_ROOT, $TEST_NGINX_TESTS, $TEST_NGINX_PORT_1, _2,
# $TEST_NGINX_BUILT_name (the module built from t/modules/name.c), $TEST_NGINX_LIBRARY_name and
# $TEST_NGINX_PROGRAM_name (the library and the program built from t/tools/name.c).
sub expand {
    my ($self, $text) = @_;
    $text =~ s/\$TEST_NGINX_SERVER_PORT\b/$self->port/ge;
    $text =~ s/\$TEST_NGINX_SERVER_ROOT\b/$self->{root}/g;
    $text =~ s/\$TEST_NGINX_TESTS\b/$REPOSITORY\/t/g;
    $text =~ s/\$TEST_NGINX_PORT_([12])\b/$self->port($1)/ge;
    $text =~ s/\$TEST_NGINX_BUILT_(\w+)/Test::Memstat::Build::module($1)/ge;
    $text =~ s/\$TEST_NGINX_LIBRARY_(\w+)/Test::Memstat::Build::library($1)/ge;
    $text =~ s/\$TEST_NGINX_PROGRAM_(\w+)/Test::Memstat::Build::program($1)/ge;
    return $text;
}

# Writes a new copy of the module to the path that the server loads it from, if it uses a copy.
sub copy_module {
    my ($self) = @_;
    my $path = $self->{module} = "$self->{root}/memstat.so";
    copy($MODULE, "$path.new") && rename "$path.new", $path or die "cannot copy $MODULE: $!\n";
    return $self;
}

# Returns the other modules that a configuration needs. They are found in the folder of this nginx.
sub further_modules {
    my ($conf, $lua) = @_;
    return split ' ', $ENV{TEST_NGINX_LOAD_MODULES} if defined $ENV{TEST_NGINX_LOAD_MODULES};
    my @names;
    push @names, qw(ndk_http_module ngx_http_lua_module) if $lua && needs_lua($conf);
    push @names, 'ngx_stream_module'
        if $conf =~ /^\s*stream\s*\{/m && nginx_version() =~ /--with-stream=dynamic/;
    return unless @names;
    my ($path) = nginx_version() =~ /--modules-path=(\S+)/
        or die "$BINARY does not say where its modules are\n";
    return map { "$path/$_.so" } @names;
}

sub needs_lua { return $_[0] =~ /\blua_|_by_lua/ }

# Returns the path of the real ngx_stream_lua_module in TEST_NGINX_STREAM_LUA_MODULE, or else of the
# stand-in, unless one of them is linked into nginx.
sub stream_lua_module {
    return if nginx_version() =~ /--add-module=\S*stream[_-]lua/;
    return $ENV{TEST_NGINX_STREAM_LUA_MODULE}
        || Test::Memstat::Build::module('ngx_stream_lua_module', @STREAM_LUA);
}

my $nginx_version;
sub nginx_version { return $nginx_version //= `'$BINARY' -V 2>&1` }

# Writes files below html/, from a text with ">>> name" before each.
sub write_files {
    my ($self, $text) = @_;
    my (undef, @files) = split /^>>> +(\S+)[^\n]*\n/m, $text;
    while (my ($name, $content) = splice @files, 0, 2) {
        my $path = "$self->{root}/html/$name";
        make_path(dirname($path));
        open my $file, '>', $path or die "cannot write $path: $!\n";
        print $file $content;
        close $file or die "cannot write $path: $!\n";
    }
    return;
}


1;
